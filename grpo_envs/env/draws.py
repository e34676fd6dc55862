"""The promises about drawing problems: by key, and by split."""

from __future__ import annotations

from collections.abc import Iterator

from grpo_envs.env.text import SPLITS, TextEnv
from grpo_envs.env.time_limit import time_limit
from grpo_envs.env.trial import NotTried, Trial
from grpo_envs.seeding import rng_for
from grpo_envs.types import Problem

_REMEDY = "draw until grpo_envs.seeding.split_of(question) is the split"
_UNKNOWN = "not tried: the problems are hidden, and their golds are not known here"


def same_key_same_problem(trial: Trial) -> Iterator[str]:
    """Draw the problems twice, the second time backwards."""
    for split in SPLITS:
        first = trial.drawn(split)
        again = [trial.problem(seed, split) for seed in reversed(range(trial.problems))][::-1]
        for seed, (one, other) in enumerate(zip(first, again, strict=True)):
            if one != other:
                yield f"seed {seed} of {split} gave {one.prompt!r}, then {other.prompt!r}"


def different_keys(trial: Trial) -> Iterator[str]:
    """Draw many problems: two of them must differ."""
    for split in SPLITS:
        drawn = trial.drawn(split)
        known = {_identity(trial.env, problem) for problem in drawn}
        if len(known) < 2 and trial.has_several(split):
            _require_known(trial.env, drawn)
            yield f"{trial.problems} seeds of {split} all gave {_shown(trial.env, drawn[0])}"


def disjoint(trial: Trial) -> Iterator[str]:
    """Look for a problem of one split in the other."""
    yield from _ignores_split(trial)
    wide = trial.problems * 10  # shared problems of a large space show only in many draws
    train = {_identity(trial.env, problem) for problem in trial.drawn("train", wide)}
    for problem in trial.drawn("eval", wide):
        if _identity(trial.env, problem) in train:
            _require_known(trial.env, [problem])
            yield f"{_shown(trial.env, problem)} is in both; {_REMEDY}"


def _ignores_split(trial: Trial) -> Iterator[str]:
    """Draw with the same random numbers for both splits: equal problems are shared."""
    env = trial.env
    if env.rows is not None or type(env).draw is TextEnv.draw:
        return
    for number in range(trial.problems):
        with time_limit(trial.seconds, f"draw(rng {number}, ...)"):
            train, held_out = (env.draw(rng_for("both", number), of) for of in SPLITS)
        if _identity(env, train) == _identity(env, held_out):
            what = _shown(env, train)
            yield f"draw(rng, split) ignores the split: both have {what}; {_REMEDY}"


def _identity(env: TextEnv, problem: Problem) -> tuple[str, str]:
    """Return the identity of a problem: its prompt, and for hidden problems its gold."""
    return problem.prompt, repr(problem.gold) if env.hidden else ""


def _shown(env: TextEnv, problem: Problem) -> str:
    return f"{problem.prompt!r}" + (f" with gold {problem.gold!r}" if env.hidden else "")


def _require_known(env: TextEnv, problems: list[Problem]) -> None:
    """Stop a check of problems that neither their prompts nor their golds can distinguish.

    Raises:
        NotTried: the problems cannot be distinguished.
    """
    if env.hidden and all(problem.gold is None for problem in problems):
        raise NotTried(_UNKNOWN)
