"""The assignment of problem numbers to the environments of a mixture."""

from collections.abc import Mapping

from grpo_envs.seeding import rng_for

CYCLE = 1000


class Schedule:
    """Assigns numbers to names by weight, exactly in every cycle of CYCLE numbers.

    Each name counts its own numbers without gaps, so that the rows of a dataset come in epochs.

    >>> schedule = Schedule({"math": 3, "code": 1})
    >>> [schedule.place(n)[0] for n in range(1000)].count("code")
    250
    >>> sorted(number for name, number in map(schedule.place, range(2000)) if name == "code")[-1]
    499
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Divide a cycle by largest remainders, with at least one number for each name."""
        total = sum(weights.values())
        shares = {name: CYCLE * weight / total for name, weight in weights.items()}
        self._counts = {name: max(1, int(share)) for name, share in shares.items()}
        by_remainder = sorted(shares, key=lambda name: shares[name] % 1, reverse=True)
        for name in by_remainder[: max(0, CYCLE - sum(self._counts.values()))]:
            self._counts[name] += 1
        order = [name for name, count in self._counts.items() for _ in range(count)]
        rng_for("schedule").shuffle(order)
        seen = dict.fromkeys(weights, -1)
        self._places: list[tuple[str, int]] = []
        for name in order:
            seen[name] += 1
            self._places.append((name, seen[name]))

    def place(self, number: int) -> tuple[str, int]:
        """Return the name of a number, and how many numbers the name had before."""
        cycle, rest = divmod(number, len(self._places))
        name, rank = self._places[rest]
        return name, cycle * self._counts[name] + rank
