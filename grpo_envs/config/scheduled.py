"""Numbers that change while a run trains: `{0: 0.2, 1000: 0.1}` in place of a number.

The value is piecewise constant: each number holds from its step (as in metrics.jsonl) up to the
next one. The number of step 0 holds from the beginning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from math import inf, isfinite
from typing import Any

from grpo_envs.errors import ConfigError

Scheduled = Any
"""A float, or a mapping from steps to floats. `Any`, as OmegaConf has no such union."""


def scheduled(
    key: str,
    value: object,
    allowed: str,
    *,
    low: float = 0.0,
    high: float = inf,
    above: bool = False,
) -> float | dict[int, float]:
    """Return a number or a schedule as floats; refuse any other value.

    Args:
        key: Name of the configuration key.
        value: The given value.
        allowed: The allowed values in words, for the message.
        low: The least value.
        high: The largest value.
        above: Whether a value has to be above `low`.

    Raises:
        ConfigError: one line that names the key, the value and what is allowed.
    """
    said = f"{key}={shown(value)}"
    if not isinstance(value, Mapping):
        return _number(said, value, allowed, low=low, high=high, above=above)
    form = "Allowed: {0: a number, step: a number, ...} with steps that ascend from 0."
    steps = list(value)
    if any(type(step) is not int for step in steps) or not steps:
        raise ConfigError(f"{said}: a step is a whole number. {form}")
    if steps[0] != 0:
        raise ConfigError(f"{said}: no value for step 0, the beginning. {form}")
    if steps != sorted(steps):
        raise ConfigError(f"{said}: its steps do not ascend. {form}")
    return {
        step: _number(
            f"{said}: at step {step}, {each}", each, allowed, low=low, high=high, above=above
        )
        for step, each in value.items()
    }


def _number(
    said: str, value: object, allowed: str, *, low: float, high: float, above: bool
) -> float:
    try:
        number = float(value) if isinstance(value, int | float | str) else inf
    except ValueError:
        number = inf
    holds = isfinite(number) and low <= number <= high and not (above and number == low)
    if isinstance(value, bool) or not holds:
        raise ConfigError(f"{said}. Allowed: {allowed}, or a schedule {{0: a number, step: ...}}.")
    return number


def value_at(value: Scheduled, step: int) -> float:
    """Return the number in force in a step, counted from 1.

    >>> [value_at({0: 0.2, 3: 0.1}, step) for step in (1, 2, 3, 4)], value_at(0.5, 9)
    ([0.2, 0.2, 0.1, 0.1], 0.5)
    """
    if not isinstance(value, Mapping):
        return float(value)
    return float(value[max(begin for begin in value if begin <= step)])


def largest(value: Scheduled) -> float:
    """Return the largest number that a key takes in a run."""
    return float(max(value.values())) if isinstance(value, Mapping) else float(value)


def changing(cfg: Any) -> dict[str, dict[int, float]]:
    """Return the schedules among the fields of a dataclass, by name."""
    values = {f.name: getattr(cfg, f.name) for f in fields(cfg)}
    return {name: value for name, value in values.items() if is_schedule(value)}


def is_schedule(value: object) -> bool:
    """Return whether a value is a mapping from steps."""
    return isinstance(value, Mapping) and bool(value) and all(type(key) is int for key in value)


def shown(value: object) -> str:
    """Return a value as a command has it; the numbers of a schedule keep all digits.

    >>> shown({0: 0.2, 1000: 0.1}), shown(0.04), shown(1.0)
    ('{0: 0.2, 1000: 0.1}', '0.04', '1')
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {each}" for key, each in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)
