"""Exercises by level."""

import random
from collections.abc import Callable, Sequence

from grpo_env_format.exercise import Exercise
from grpo_env_format.prose import prose, words
from grpo_env_format.read_off import PROSE, WORDING, constraints_of
from grpo_env_format.simple import NOUNS, simple
from grpo_env_format.structured import DOCUMENTS, STRUCTURES
from grpo_envs.graders.format.base import Constraint, folded, words_of


def _wording(rng: random.Random) -> Exercise:
    """Level 2: two constraints on a few words."""
    text = words(rng, 3, 8)
    return _asked("", constraints_of(rng, text, 2, WORDING), text)


def _prose(rng: random.Random) -> Exercise:
    """Level 3: three constraints on sentences and paragraphs."""
    text = prose(rng)
    return _asked(_topic(rng, text), constraints_of(rng, text, 3, PROSE), text)


def _structure(rng: random.Random) -> Exercise:
    """Level 4: a structure."""
    text, constraint = rng.choice(STRUCTURES)(rng)
    return _asked(_topic(rng, text), (constraint,), text)


def _document(rng: random.Random) -> Exercise:
    """Level 5: a structure, and three constraints on what stands in it."""
    text, constraint = rng.choice(DOCUMENTS)(rng)
    others = constraints_of(rng, text, 4, PROSE)
    chosen = [made for made in others if made.name != constraint.name][:3]
    return _asked(_topic(rng, text), (constraint, *chosen), text)


def _topic(rng: random.Random, text: str) -> str:
    """Return what the text is about, '' where it has none of our nouns."""
    there = sorted({*NOUNS} & {*words_of(folded(text))})
    return f"Write about the {rng.choice(there)}" if there else ""


def _asked(about: str, constraints: Sequence[Constraint], text: str) -> Exercise:
    return Exercise(
        text=instructions(about, constraints), constraints=tuple(constraints), answer=text
    )


def instructions(about: str, constraints: Sequence[Constraint]) -> str:
    """Return what is asked as sentences."""
    said = [about, *(constraint.instruction for constraint in constraints)]
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in said if text)


LEVELS: dict[int, Callable[[random.Random], Exercise]] = {
    1: simple,
    2: _wording,
    3: _prose,
    4: _structure,
    5: _document,
}
