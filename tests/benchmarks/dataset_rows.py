"""How long a dataset of 300,000 rows takes to be ready, the first time and after it.

    python tests/benchmarks/dataset_rows.py
    python tests/benchmarks/dataset_rows.py --rows 20000

Rows with a numeric gold, written to a temporary folder; what the first time found out is kept
there, too.
"""

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

from grpo_env_math import MathEnv


def write(path: Path, count: int) -> None:
    """Write rows as large as those of a usual dataset of word problems."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            story = " ".join(rng.choices(["apples", "pears", "boxes", "friends", "days"], k=30))
            row = {"question": f"{story}: what is {number} + 1?", "answer": str(number + 1)}
            file.write(json.dumps({**row, "level": number % 5, "source": "made up"}) + "\n")


def main() -> None:
    """Print both times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    count = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        path = Path(folder) / "rows.jsonl"
        write(path, count)
        columns = {"prompt": "question", "gold": "answer"}
        for name in ("first", "second"):
            start, processor = time.perf_counter(), time.process_time()
            env = MathEnv(dataset=str(path), columns=columns)
            env.problem(0)
            took, used = time.perf_counter() - start, time.process_time() - processor
            print(f"{name} time, {count:,} rows: {took:.1f} s ({used:.1f} s of processor time)")


if __name__ == "__main__":
    main()
