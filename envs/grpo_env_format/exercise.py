"""What a generator makes: a prompt, its constraints, and an answer that satisfies all of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from grpo_envs.graders.format import Constraint


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """A text to write."""

    text: str
    """The prompt."""
    constraints: tuple[Constraint, ...]
    answer: str
    work: str = ""
    """How to get there, a step a line; '' if there is nothing to work out."""


def numbered(things: Iterable[object]) -> str:
    r"""Count things, one a line.

    >>> numbered(["fox", "sea"])
    '1 fox\n2 sea'
    """
    return "\n".join(f"{number} {thing}" for number, thing in enumerate(things, 1))


def topic(nouns: Sequence[str]) -> str:
    """Return what the text shall be about."""
    return f"write about {' and '.join(nouns)}"
