"""Level 1: one constraint in few and simple words, with the steps to an answer.

The bundled model was trained on these exercises, so their texts must not change (a test checks it).
"""

import random
from collections.abc import Callable
from itertools import accumulate

from grpo_env_format.exercise import Exercise, numbered, topic
from grpo_envs.graders.format.base import Constraint
from grpo_envs.graders.format.contents import Alphabetical, EndsWith, InOrder, StartsWith
from grpo_envs.graders.format.counts import Frequency, Items, Letters, Sum, Words
from grpo_envs.graders.format.json_text import JsonKeys

NOUNS = (
    *("bird", "book", "box", "bread", "cloud", "cup", "dog", "door", "fish", "fox", "hat", "house"),
    *("key", "lamp", "map", "moon", "pen", "rain", "river", "road", "sea", "star", "stone", "sun"),
    "tree",
)


def simple(rng: random.Random) -> Exercise:
    """Make an exercise with one constraint."""
    return rng.choice(_KINDS)(rng)


def _asked(constraint: Constraint, answer: str, work: str, about: str = "") -> Exercise:
    text = f"{about}. {constraint.instruction}." if about else f"{constraint.instruction}."
    return Exercise(text=text, constraints=(constraint,), answer=answer, work=work)


def _nouns(rng: random.Random, least: int, most: int) -> list[str]:
    return rng.sample(NOUNS, rng.randint(least, most))


def _words(rng: random.Random) -> Exercise:
    nouns = _nouns(rng, 3, 9)
    constraint = Words(least=len(nouns), most=len(nouns))
    return _asked(constraint, " ".join(nouns), numbered(nouns), topic(nouns[:2]))


def _letters(rng: random.Random) -> Exercise:
    nouns = _nouns(rng, 3, 5)
    sums = list(accumulate(map(len, nouns)))
    work = "\n".join(f"{noun} {so_far}" for noun, so_far in zip(nouns, sums, strict=True))
    constraint = Letters(least=sums[-1], most=sums[-1])
    return _asked(constraint, " ".join(nouns), work, topic(nouns[:2]))


def _frequency(rng: random.Random) -> Exercise:
    about, noun = rng.sample(NOUNS, 2)
    count = rng.randint(2, 8)
    constraint = Frequency(word=noun, least=count, most=count)
    nouns = [noun] * count
    return _asked(constraint, " ".join(nouns), numbered(nouns), topic([about]))


def _items(rng: random.Random) -> Exercise:
    nouns = _nouns(rng, 3, 8)
    constraint = Items(least=len(nouns), most=len(nouns))
    return _asked(constraint, ", ".join(nouns), numbered(nouns), topic(nouns[:1]))


def _sum(rng: random.Random) -> Exercise:
    numbers = [rng.randint(1, 20) for _ in range(rng.randint(2, 4))]
    sums = list(accumulate(numbers))
    steps = zip(sums, numbers[1:], sums[1:], strict=False)
    work = "\n".join(f"{before}+{number}={after}" for before, number, after in steps)
    constraint = Sum(total=sums[-1], least=len(numbers), most=len(numbers))
    return _asked(constraint, " ".join(map(str, numbers)), work)


def _reverse(rng: random.Random) -> Exercise:
    nouns = _nouns(rng, 4, 7)
    constraint = InOrder(words=tuple(nouns), reverse=True)
    return _asked(constraint, " ".join(nouns[::-1]), numbered(nouns))


def _alphabetical(rng: random.Random) -> Exercise:
    """Sort by insertion: each line inserts the next word."""
    nouns = _nouns(rng, 3, 6)
    lines = [" ".join(sorted(nouns[:count])) for count in range(1, len(nouns) + 1)]
    return _asked(Alphabetical(words=tuple(nouns)), lines[-1], "\n".join(lines))


def _json(rng: random.Random) -> Exercise:
    nouns = _nouns(rng, 2, 4)
    pairs = ",".join(f'"{noun}":{number}' for number, noun in enumerate(nouns, 1))
    return _asked(JsonKeys(keys=tuple(nouns)), f"{{{pairs}}}", numbered(nouns))


def _starts(rng: random.Random) -> Exercise:
    nouns = _nouns(rng, 3, 5)
    phrase = " ".join(nouns[:-1])
    return _asked(StartsWith(phrase=phrase), " ".join(nouns), numbered(nouns))


def _ends(rng: random.Random) -> Exercise:
    nouns = _nouns(rng, 3, 5)
    phrase = " ".join(nouns[1:])
    return _asked(EndsWith(phrase=phrase), " ".join(nouns), numbered(nouns))


_KINDS: tuple[Callable[[random.Random], Exercise], ...] = (
    _words,
    *(_letters, _letters),  # kinds that need several steps are twice as frequent
    _frequency,
    _items,
    *(_sum, _sum),
    _reverse,
    *(_alphabetical, _alphabetical),
    _json,
    _starts,
    _ends,
)
