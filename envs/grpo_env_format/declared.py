"""Constraints that a configuration or a dataset declares, and problems with these constraints."""

import json
import random
from collections.abc import Sequence
from typing import Any

from grpo_env_format.build import build
from grpo_env_format.composed import asked
from grpo_env_format.exercise import Exercise
from grpo_env_format.vocabulary import MORE
from grpo_envs.env.dataset import Row
from grpo_envs.errors import ConfigError, DatasetError
from grpo_envs.graders.format import Constraint, constraints_from, tagged_answer
from grpo_envs.graders.format.contents import RepeatPrompt
from grpo_envs.graders.format.structure import Tags
from grpo_envs.graders.format.words import words_of
from grpo_envs.graders.text import after_think
from grpo_envs.types import Problem

OURS = {"think", "answer"}
_TRIALS = 3
_HINTS = {
    "regex": "regex is met by its example=, a text that the pattern matches.",
    "json_schema": "A text with a pattern in the schema needs `examples`.",
}


def declared(listed: Any) -> tuple[Constraint, ...]:
    """Read the constraints of a configuration, and check that an answer can be built.

    Raises:
        ConfigError: a constraint is declared wrongly, or no answer is found that satisfies all.
    """
    constraints = _read(listed)
    trials = (build(random.Random(seed), constraints) for seed in range(_TRIALS))
    if not any(answer is not None for answer in trials):
        names = ", ".join(constraint.name for constraint in constraints)
        text = f"env.constraints: no answer was found that satisfies all of {names}."
        hints = {one.name: _HINTS[one.name] for one in constraints if one.name in _HINTS}
        raise ConfigError(" ".join([text, *hints.values()]))
    return constraints


def exercise(rng: random.Random, constraints: Sequence[Constraint]) -> Exercise:
    """Make an exercise with these constraints and a topic."""
    while True:
        about = rng.sample(MORE, 2)
        answer = build(rng, constraints, about)
        if answer is not None:
            text = asked(about, constraints)
            return Exercise(text=text, constraints=tuple(constraints), answer=answer)


def problem_from(row: Row, frame: str) -> Problem:
    """Return the problem of a row; its solution is put into `frame` unless it has tags already.

    Raises:
        DatasetError: the prompt is empty, a constraint is declared wrongly, or the solution does
            not satisfy all constraints.
    """
    prompt, where = row.text("prompt"), f"{row.source}: row {row.number + 1}"
    listed = row.values["constraints"]
    try:
        constraints = _read(
            json.loads(listed) if isinstance(listed, str) else _without_none(listed)
        )
    except (ConfigError, ValueError, RecursionError) as error:
        raise DatasetError(f"{where}: constraints: {error}") from error
    solution = str(row.values["solution"] or "")
    bare = tagged_answer(solution) if frame != "{}" else after_think(solution)
    if solution.strip() and bare is None:
        bare, solution = solution, frame.format(solution)
    missed = [one.name for one in constraints if solution.strip() and one.check(bare or "") < 1]
    if missed:
        raise DatasetError(f"{where}: the solution does not satisfy {', '.join(missed)}.")
    meta = {"row": row.number + 1}
    return Problem(prompt=prompt, gold=constraints, solution=solution.strip(), meta=meta)


def own_part(prompt: str, text: str, constraints: Sequence[Constraint]) -> str:
    """Return a text without the prompt at its start, if a constraint requires the prompt there."""
    for one in constraints:
        if isinstance(one, RepeatPrompt) and _plain(one.prompt) == _plain(prompt):
            return one.rest(text) or text
    return text


def repeats(prompt: str, text: str) -> bool:
    """Return whether a text contains a prompt of more than three words, or equals the prompt.

    >>> repeats("Write about a fox.", "I write about a fox. Yes"), repeats("a fox", "see a fox")
    (True, False)
    """
    asked, said = _plain(prompt), _plain(text)
    return asked == said or (len(words_of(prompt)) > 3 and asked in said)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _read(listed: Any) -> tuple[Constraint, ...]:
    constraints = constraints_from(listed)
    for one in constraints:
        taken = sorted(OURS & {*one.tags}) if isinstance(one, Tags) else []
        if taken:
            names = " and ".join(f"<{tag}>" for tag in taken)
            raise ConfigError(f"tags: {names}: the reward component `format` checks these already.")
    return constraints


def _without_none(listed: Any) -> Any:
    """Leave out null options: tables with one type per column fill in missing options."""
    if not isinstance(listed, list | tuple):
        return listed
    return [
        {key: value for key, value in one.items() if value is not None}
        if isinstance(one, dict)
        else one
        for one in listed
    ]
