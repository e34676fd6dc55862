"""Write emails.csv: orders in words and the JSON that holds them, 400 rows."""

import csv
import json
import random
from pathlib import Path

ITEMS = [
    "chairs",
    "lamps",
    "tables",
    "books",
    "pens",
    "cups",
    "bags",
    "coats",
    "shoes",
    "hats",
    "clocks",
    "boxes",
]
CITIES = ["Oslo", "Rome", "Lima", "Cairo", "Paris", "Tokyo", "Quito", "Bern", "Delhi", "Accra"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]
NAMES = ["Anna", "Ben", "Carla", "David", "Emma", "Frank", "Greta", "Hugo"]
FORMS = (
    "Hi, please send {count} {item} to {city} by {day}. {name}",
    "Hello, we need {count} {item} in {city} on {day}. Thanks, {name}",
    "{count} {item} for our office in {city}, please. {day} is fine. {name}",
    "On {day} I want to have {count} {item}. Send them to {city}. {name}",
)


def main() -> None:
    """Write the file beside this one."""
    rng = random.Random(0)
    rows: dict[str, str] = {}
    while len(rows) < 400:
        order = {
            "item": rng.choice(ITEMS),
            "count": rng.randint(2, 99),
            "city": rng.choice(CITIES),
            "day": rng.choice(DAYS),
        }
        rows[rng.choice(FORMS).format(**order, name=rng.choice(NAMES))] = json.dumps(order)
    path = Path(__file__).with_name("emails.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["email", "order"])
        writer.writerows(rows.items())


if __name__ == "__main__":
    main()
