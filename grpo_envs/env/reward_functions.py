"""Reward functions, added to any environment by their names in `env.rewards`.

A reward function takes a problem and an answer and returns a number, by convention in [0, 1], or
None where it does not apply. It may be `async`; `batched` ones take all problems and answers of a
step at once. A package brings its own through the entry-point group `grpo_envs.rewards`, as this
one does; options beside `weight`, `scale`, `clip` and `timeout` are its keyword arguments.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from grpo_envs.env.installed import REWARDS, available, check_keywords, check_values, load
from grpo_envs.env.rewards import SHAPING, Part, part_from
from grpo_envs.errors import require, unknown
from grpo_envs.types import Problem, Reward

_TIMEOUT = 60.0
_MOST_LATE = 3
F = TypeVar("F", bound=Callable[..., Any])


def batched(function: F) -> F:
    """Mark a reward function that takes problems and answers and returns a list."""
    function.batched = True  # type: ignore[attr-defined]
    return function


def length(problem: Problem, answer: str, *, most: int = 400, slope: int = 200) -> float:
    """Return 0 up to `most` characters, then rising to 1 over the next `slope`: weigh it below 0.

    (The shape of DAPO's soft punishment, arXiv 2503.14476, eq. 13, in characters.)

    >>> [length(None, "x" * n) for n in (400, 500, 900)]
    [0.0, 0.5, 1.0]
    """
    require(most >= 0, "env.rewards.length.most", most, "0 or more")
    require(slope > 0, "env.rewards.length.slope", slope, "more than 0")
    return min(max((len(answer) - most) / slope, 0.0), 1.0)


def repetition(problem: Problem, answer: str, *, size: int = 4) -> float:
    """Return the share of runs of `size` words that stood there before: weigh it below 0.

    (The n-gram penalty of Yeo et al. 2025, arXiv 2502.03373.)

    >>> repetition(None, "a b c d"), repetition(None, "so so so so so so")
    (0.0, 0.6666666666666667)
    """
    require(size > 0, "env.rewards.repetition.size", size, "more than 0")
    words = answer.split()
    runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def compose(
    declared: Mapping[str, float], given: Mapping[str, Any] | None
) -> tuple[dict[str, Part], dict[str, Function]]:
    """Return how each part counts, and the functions that are to be asked for added parts.

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
    for name, said in (given or {}).items():
        require(isinstance(name, str), "a name in env.rewards", name, "text, such as correct")
        parts[name] = part_from(name, said, declared.get(name, 1.0))
        own = said if isinstance(said, Mapping) else {}
        options = {key: value for key, value in own.items() if key not in SHAPING}
        if name in declared and options:
            raise unknown(f"key of env.rewards.{name}", next(iter(options)), SHAPING)
        if name not in declared:
            timeout = options.pop("timeout", _TIMEOUT)
            number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
            require(number and timeout > 0, f"env.rewards.{name}.timeout", timeout, "above 0 [s]")
            functions[name] = _function(name, options, declared, float(timeout))
    return parts, functions


def _function(
    name: str, options: Mapping[str, Any], declared: Mapping[str, float], timeout: float
) -> Function:
    if name not in available(REWARDS):
        raise unknown("reward part", name, [*declared, *available(REWARDS)])
    function = load(REWARDS, name)
    asked = partial(function, None, None)
    check_keywords(asked, options, f"env.rewards.{name}.", also=(*SHAPING, "timeout"))
    check_values(asked, options, f"env.rewards.{name}.")
    whole = getattr(function, "batched", False)
    return Function(name, partial(function, **options), whole=whole, timeout=timeout)


@dataclass(frozen=True, slots=True)
class Function:
    """A reward function with its options."""

    name: str
    function: Callable[..., Any]
    whole: bool
    """Whether it takes all answers of a step at once."""
    timeout: float = _TIMEOUT
    """Seconds that it may take: for an answer, or for all where it takes all at once."""

    def __call__(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[Reward]:
        """Return what each answer earns of this part."""
        if self.whole:
            (values,) = in_time([partial(self._whole, problems, answers)], self.timeout)
            if isinstance(values, BaseException):
                raise values
        elif inspect.iscoroutinefunction(getattr(self.function, "func", self.function)):
            values = _run(self._together(problems, answers))
        else:
            pairs = zip(problems, answers, strict=True)
            values = in_time([partial(self.function, *pair) for pair in pairs], self.timeout)
        return [_reward(self.name, value) for value in values]

    def _whole(self, problems: Sequence[Problem], answers: Sequence[str]) -> Any:
        values = self.function(problems, answers)
        return _run(values) if inspect.isawaitable(values) else values

    async def _together(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[Any]:
        """Wait for all at once; one that raises is its own answer's misfortune."""
        pairs = zip(problems, answers, strict=True)
        calls = [asyncio.wait_for(self.function(*pair), self.timeout) for pair in pairs]
        values = await asyncio.gather(*calls, return_exceptions=True)
        late = TimeoutError(f"took longer than {self.timeout:g} s")
        return [late if isinstance(value, TimeoutError) else value for value in values]


def in_time(calls: Sequence[Callable[[], Any]], seconds: float) -> list[Any]:
    """Return what each call returns, or the exception that it raises.

    One that takes longer than `seconds` gives a TimeoutError, and is left behind in a thread that
    does not keep the process alive; after a few of them the rest are not called at all.
    """
    results: list[Any] = []
    late = 0
    while len(results) < len(calls) and late < _MOST_LATE:
        answered: queue.SimpleQueue[Any] = queue.SimpleQueue()
        left = threading.Event()
        rest = calls[len(results) :]
        threading.Thread(target=_call, args=(rest, answered, left), daemon=True).start()
        try:
            for _ in rest:
                results.append(answered.get(timeout=seconds))  # noqa: PERF401  those before stay
        except queue.Empty:
            left.set()
            late += 1
            results.append(TimeoutError(f"took longer than {seconds:g} s"))
    unasked = TimeoutError(f"not asked: {_MOST_LATE} others took longer than {seconds:g} s")
    return [*results, *[unasked] * (len(calls) - len(results))]


def _call(
    calls: Sequence[Callable[[], Any]], answered: queue.SimpleQueue[Any], left: threading.Event
) -> None:
    for call in calls:
        if left.is_set():
            return
        try:
            answered.put(call())
        except BaseException as error:  # noqa: BLE001  handed over; SystemExit would end the thread
            answered.put(error)


def _reward(name: str, value: Any) -> Reward:
    if isinstance(value, BaseException):
        told = f"{name}: {type(value).__name__}: {value}"
        return Reward(valid=False, error=told.removesuffix(": "))  # a MemoryError says no more
    return Reward(parts={} if value is None else {name: float(value)})


def _run(awaitable: Any) -> Any:
    """Run a coroutine to its end, also where the caller is within a running event loop."""

    async def whole() -> Any:
        return await awaitable

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, whole()).result()
