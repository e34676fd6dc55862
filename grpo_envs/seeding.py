"""Random generators whose seed is a hash of what they are for, in place of seed arithmetic.

`seed + index` makes neighbouring seeds shifted copies of one stream, so a validation set drawn
with seed 2 repeats a training set drawn with seed 1. Hashing the whole key removes that.
"""

import hashlib
import random

Key = str | int | bool


def seed_for(*key: Key) -> int:
    """Return a seed in [0, 2**63) that depends on every element of `key` and on nothing else.

    >>> seed_for("train", 1, 5) == seed_for("train", 1, 5)
    True
    >>> seed_for("train", 1, 5) == seed_for("train", 2, 4)
    False
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def rng_for(*key: Key) -> random.Random:
    """Return a generator seeded by `seed_for(*key)`."""
    return random.Random(seed_for(*key))


def split_of(question: str, eval_share: float = 0.1) -> str:
    """Return the split that owns `question`: 'eval' for a fixed, hashed share, else 'train'.

    A generator that draws until `split_of(question) == split` has disjoint splits, whatever its
    seeds are.

    >>> {split_of("What is 1 + 2?"), split_of("What is 1 + 2?")} < {"train", "eval"}
    True
    """
    return "eval" if seed_for("split", question) < eval_share * 2**63 else "train"
