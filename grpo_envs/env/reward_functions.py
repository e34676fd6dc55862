"""Reward functions, added to any environment by their names in `env.rewards`.

A reward function takes a problem and an answer and returns a number, by convention in [0, 1], or
None if it does not apply. It may be `async`. A `batched` function takes all problems and answers of
a step at once, a `grouped` function all answers to one problem. Functions written for TRL work
unchanged (see `trl_functions`). A package registers its functions in the entry-point group
`grpo_envs.rewards`, as this package does. Options other than `weight`, `scale`, `clip` and
`timeout` are keyword arguments of the function.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar

from grpo_envs.env.function import TIMEOUT, Function
from grpo_envs.env.installed import (
    REWARDS,
    available,
    check_keywords,
    check_values,
    load,
    signature,
)
from grpo_envs.env.rewards import ACCURACY, SHAPING, Part, part_from
from grpo_envs.env.scored import MEMBERS, SCORED
from grpo_envs.env.trl_functions import TrlFunction, is_trl
from grpo_envs.errors import ConfigError, nearest, require, unknown
from grpo_envs.types import Problem

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


def batched(function: F) -> F:
    """Mark a reward function that takes problems and answers and returns a list.

    A function with a parameter named `rewards`, `parts` or `right` gets, in a list, what each
    answer has earned so far, see `Scored`; answers whose grading failed are left out. A function
    with a parameter `episodes` is called about whole episodes, when those of a group are over, and
    not about each turn. It gets the turns of each episode, and as answers the `completions` of
    `grouped`.
    """
    function.batched = True  # type: ignore[attr-defined]
    return function


def grouped(function: F) -> F:
    """Mark a reward function that sees a group and returns a list of numbers, one for each member.

        @grpo_envs.grouped
        def f(problem, completions, rewards, parts) -> list[float]: ...

    It is called once for each group, when the episodes of all members are over and their other
    parts are scored. It may have parameters named `problem`, `completions`, `rewards`, `parts`,
    `right` and `episodes`. All but `problem` are lists with one element for each member:

    - `completions`: the answer as text; in a conversation all answers, with empty lines between.
    - `rewards`, `parts`, `right`: see `Scored`.
    - `episodes`: the turns of the episode (`Turn`).

    Members whose grading failed are left out. If the function raises, or does not return one finite
    number for each member, the rewards concerned are invalid.
    """
    function.grouped = True  # type: ignore[attr-defined]
    return function


def length(problem: Problem, answer: str, *, most: int = 400, slope: int = 200) -> float:
    """Return 0 up to `most` characters, rising to 1 over the next `slope`. Its weight is negative.

    (The shape of DAPO's soft punishment, arXiv 2503.14476, eq. 13, in characters.)

    >>> [length(None, "x" * n) for n in (400, 500, 900)]
    [0.0, 0.5, 1.0]
    """
    require(most >= 0, "env.rewards.length.most", most, "0 or more")
    require(slope > 0, "env.rewards.length.slope", slope, "more than 0")
    return min(max((len(answer) - most) / slope, 0.0), 1.0)


def repetition(problem: Problem, answer: str, *, size: int = 4) -> float:
    """Return the share of `size`-word n-grams that occurred before. Its weight is negative.

    (The n-gram penalty of Yeo et al. 2025, arXiv 2502.03373.)

    >>> repetition(None, "a b c d"), repetition(None, "so so so so so so")
    (0.0, 0.6666666666666667)
    """
    require(size > 0, "env.rewards.repetition.size", size, "more than 0")
    words = answer.split()
    runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


@grouped
def length_among_right(*, completions: Sequence[str], right: Sequence[bool]) -> list[float]:
    """Return 0 for the shortest right answer of a group, 1 for the longest. Its weight is negative.

    Wrong answers get 0, and so do right answers if all have the same length. (The length reward of
    Kimi k1.5, arXiv 2501.12599, section 2.3.3, with these differences: only right answers are
    compared, lengths are in characters, wrong answers get 0, and the value is 0.5 minus that
    reward, so that it is a cost.)

    >>> length_among_right(completions=["1234", "12", "123", "1"], right=[True, True, True, False])
    [1.0, 0.0, 0.5, 0.0]
    """
    lengths = [len(text) for text, is_right in zip(completions, right, strict=True) if is_right]
    least, most = min(lengths, default=0), max(lengths, default=0)
    return [
        (len(text) - least) / (most - least) if is_right and most > least else 0.0
        for text, is_right in zip(completions, right, strict=True)
    ]


def compose(
    declared: Mapping[str, float], given: Mapping[str, Any] | None
) -> tuple[dict[str, Part], dict[str, Function]]:
    """Return how each part counts, and the reward functions of the added parts.

    Args:
        declared: The environment's own parts and their weights.
        given: `env.rewards`: weights, or mappings of `weight`, `scale`, `clip` and the options of
            a reward function.

    Raises:
        ConfigError: a part is neither declared nor installed, or a value is not allowed.
        PluginError: a reward function cannot be loaded.
    """
    parts = {name: Part(weight=float(weight)) for name, weight in declared.items()}
    functions: dict[str, Function] = {}
    mapping = given is None or isinstance(given, Mapping)
    require(mapping, "env.rewards", given, "{part: weight, ...}, such as {correct: 1.0}")
    for name, said in (given or {}).items():
        require(isinstance(name, str), "a name in env.rewards", name, "text, such as correct")
        parts[name] = part_from(name, said, declared.get(name, 1.0))
        own = said if isinstance(said, Mapping) else {}
        options = {key: value for key, value in own.items() if key not in SHAPING}
        if name in declared and options:
            raise unknown(f"key of env.rewards.{name}", next(iter(options)), SHAPING)
        if name == ACCURACY:
            alone = name in declared and not own
            require(alone, f"env.rewards.{name}", said, "a weight, where the environment has it")
        if name not in declared:
            functions[name] = _function(name, own, declared)
    return parts, functions


def _function(name: str, said: Mapping[str, Any], declared: Mapping[str, float]) -> Function:
    if name not in available(REWARDS):
        raise unknown("reward component", name, [*declared, *available(REWARDS)])
    key, function = f"env.rewards.{name}", load(REWARDS, name)
    options = {option: value for option, value in said.items() if option not in SHAPING}
    timeout = options.pop("timeout", TIMEOUT)
    if inspect.isclass(function):
        own_time = getattr(function, "keeps_time", False)
        timeout = threading.TIMEOUT_MAX if own_time else timeout
        function, options = _made(function, said, f"{key}."), {}
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    require(number and timeout > 0, f"{key}.timeout", timeout, "above 0 [s]")
    sees_group = getattr(function, "grouped", False)
    if not sees_group and is_trl(function):
        trl = TrlFunction.make(name, function, options)
        return Function(name, trl, whole=True, timeout=timeout, columns=trl.columns)
    whole = getattr(function, "batched", False)
    about = {"problem", *MEMBERS} if sees_group else {*SCORED, "episodes"} if whole else set()
    asks = frozenset(about & signature(function).parameters.keys())
    own = _without(function, asks, 0 if sees_group else 2)
    check_keywords(own, options, f"{key}.", also=(*SHAPING, "timeout"))
    check_values(own, options, f"{key}.")
    made = partial(function, **options) if options else function
    alone = getattr(function, "each_alone", False)
    return Function(
        name,
        made,
        whole=whole,
        grouped=sees_group,
        asks=asks,
        timeout=timeout,
        each_alone=alone,
    )


def _made(kind: type[Any], said: Mapping[str, Any], key: str) -> Any:
    """Return an instance of a class; it gets `scale` and `timeout` if it has such parameters."""
    ours = SHAPING if getattr(kind, "keeps_time", False) else (*SHAPING, "timeout")
    own = signature(kind).parameters
    options = {name: value for name, value in said.items() if name in own or name not in ours}
    check_keywords(kind, options, key, also=ours)
    check_values(kind, options, key)
    made = kind(**options)
    if "__str__" in vars(kind):
        _tell(f"{key.removesuffix('.')}: {made}")
    return made


@lru_cache(maxsize=64)  # once, although training and evaluation both make an environment
def _tell(text: str) -> None:
    log.info("%s", text)


def _without(function: Callable[..., Any], names: Collection[str], first: int) -> Any:
    """Return a stand-in for a function, without its first parameters and without `names`."""
    found = signature(function)
    rest = [p for p in [*found.parameters.values()][first:] if p.name not in names]

    def own() -> None: ...

    own.__signature__ = found.replace(parameters=rest)  # type: ignore[attr-defined]
    return own


def require_columns(
    functions: Mapping[str, Function], columns: Callable[[], Collection[str]]
) -> None:
    """Require the columns that reward functions need.

    Args:
        functions: Reward functions by name.
        columns: Returns the columns that problems have.

    Raises:
        ConfigError: a column is missing.
    """
    for name, function in functions.items():
        have = columns() if function.columns else ()
        missing = sorted(function.columns.difference(have))
        if missing:
            found = ", ".join(sorted(have)) or "none: its problems are no dataset's"
            text = f"env.rewards.{name} asks for the column {missing[0]!r}. There is {found}."
            raise ConfigError(text + nearest(missing[0], have))
