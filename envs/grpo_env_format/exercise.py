"""A generated exercise: a prompt, its constraints, and an answer that satisfies all of them."""

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
    """The steps to the answer, a line each; '' if there are none."""


def numbered(things: Iterable[object]) -> str:
    r"""Number things, one per line.

    >>> numbered(["fox", "sea"])
    '1 fox\n2 sea'
    """
    return "\n".join(f"{number} {thing}" for number, thing in enumerate(things, 1))


def topic(nouns: Sequence[str]) -> str:
    """Return the instruction that names the topic."""
    return f"write about {' and '.join(nouns)}"
