"""Reward functions written for TRL's GRPOTrainer, called with the same arguments.

    def exact(completions, ground_truth, **kwargs):
        return [float(text == gold) for text, gold in zip(completions, ground_truth)]

Every function with a parameter `completions` or `prompts` counts as such a function. It gets each
column of the dataset as a list, and `prompts` and `completions`. These are messages if the option
`messages` or the annotation of `completions` says so, or if the prompts are conversations;
otherwise they are texts.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from grpo_envs.errors import ConfigError, require, unknown
from grpo_envs.types import Problem

log = logging.getLogger(__name__)

_MARKS = frozenset({"completions", "prompts", "completion_ids"})
_TRAINERS = frozenset({"completion_ids", "trainer_state", "environments"})
"""Parameters that only TRL's trainer can fill."""
_LOGS = frozenset({"log_extra", "log_metric"})
_NO_COLUMNS = _MARKS | _TRAINERS | _LOGS | {"prompt", "completion"}
"""Names that TRL does not use for columns."""


def is_trl(function: Callable[..., Any]) -> bool:
    """Return whether a reward function is written for TRL."""
    return bool(_MARKS & inspect.signature(function).parameters.keys())


@dataclass(frozen=True, slots=True)
class TrlFunction:
    """A reward function in TRL's form, which takes the problems and answers of a step at once."""

    name: str
    function: Callable[..., Any]
    options: Mapping[str, Any]
    messages: bool | None
    """Whether the function takes messages; None: each prompt decides."""

    @classmethod
    def make(cls, name: str, function: Callable[..., Any], given: Mapping[str, Any]) -> TrlFunction:
        """Return the function with its options.

        Args:
            name: Name of the function in `env.rewards`.
            function: The function.
            given: Values of the function's own parameters, and optionally `messages`: true or
                false.

        Raises:
            ConfigError: a parameter is unknown, or only TRL's trainer can fill one of them.
        """
        key = f"env.rewards.{name}"
        options = dict(given)
        messages = options.pop("messages", _annotated(function))
        require(messages in (True, False, None), f"{key}.messages", messages, "true or false")
        own = [p.name for p in _parameters(function) if p.name not in _NO_COLUMNS]
        for option in options:
            if option not in own:
                raise unknown(f"key of {key}", option, [*own, "messages"])
        made = cls(name, function, options, messages)
        beyond = sorted(made._required & _TRAINERS)
        if beyond:
            raise ConfigError(f"{key} asks for {beyond[0]}, which only TRL's trainer has.")
        return made

    @property
    def columns(self) -> frozenset[str]:
        """The columns that the function requires."""
        return self._required - _NO_COLUMNS

    @property
    def _required(self) -> frozenset[str]:
        needed = {p.name for p in _parameters(self.function) if p.default is p.empty}
        return frozenset(needed - self.options.keys())

    def __call__(self, problems: Sequence[Problem], answers: Sequence[str]) -> Any:
        """Return a number for each answer, or None if the function does not apply.

        An async function returns an awaitable of these numbers.
        """
        names = {name: None for problem in problems for name in problem.columns}
        columns = {name: [p.columns.get(name) for p in problems] for name in names}
        given = {name: cells for name, cells in columns.items() if name not in _NO_COLUMNS}
        chats = [bool(p.messages) if self.messages is None else self.messages for p in problems]
        given["prompts"] = [_prompt(p, chat) for p, chat in zip(problems, chats, strict=True)]
        given["completions"] = [
            [{"role": "assistant", "content": answer}] if chat else answer
            for answer, chat in zip(answers, chats, strict=True)
        ]
        logs = {name: partial(_not_written, f"env.rewards.{self.name}", name) for name in _LOGS}
        keywords: dict[str, Any] = {**given, **logs, **self.options}
        parameters = inspect.signature(self.function).parameters.values()
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            taken = {p.name for p in parameters}
            keywords = {name: value for name, value in keywords.items() if name in taken}
        values = self.function(**keywords)
        if inspect.isawaitable(values):
            return _awaited(self.name, values)
        return _numbers(self.name, values)


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    every = inspect.signature(function).parameters.values()
    return [p for p in every if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _annotated(function: Callable[..., Any]) -> bool | None:
    """Return whether `completions` is annotated as messages; None if that is unknown."""
    found = inspect.signature(function).parameters.get("completions")
    text = "" if found is None or found.annotation is found.empty else str(found.annotation)
    return True if "dict" in text.lower() else False if "str" in text else None


def _prompt(problem: Problem, chat: bool) -> Any:
    if not chat:
        return problem.prompt
    turns = problem.messages or ({"role": "user", "content": problem.prompt},)
    system = [{"role": "system", "content": problem.system_prompt}] if problem.system_prompt else []
    return [*system, *map(dict, turns)]


def _numbers(name: str, values: Iterable[Any]) -> list[Any]:
    """Return the values as a list; NaN means None, as in TRL, but may be a mistake."""
    given = [value if value is None else float(value) for value in values]
    numbers = [None if value is None or math.isnan(value) else value for value in given]
    if numbers != given:
        _warn(f"env.rewards.{name} returns NaN: it counts as not applying to the answer, as in TRL")
    return numbers


async def _awaited(name: str, values: Awaitable[Any]) -> list[Any]:
    return _numbers(name, await values)


@lru_cache(maxsize=64)
def _warn(text: str) -> None:
    log.warning("%s", text)


def _not_written(key: str, what: str, *_: Any, **__: Any) -> None:
    """Replace a callback of TRL's trainer that writes into TRL's tables."""
    _warn(f"{key} calls {what}: this is not written here; metrics.jsonl has the reward components.")
