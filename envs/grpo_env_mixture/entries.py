"""The entries of `env.of`: environments, their weights and their keywords."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_envs.env import TextEnv, plugins
from grpo_envs.errors import ConfigError, require

_EXAMPLE = "{math: 2, code: 1} or {sums: {env: math, weight: 2, levels: [1, 2]}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One environment of a mixture."""

    name: str
    """The prefix of its reward components and metrics."""
    env: str
    weight: float
    levels: tuple[int, ...]
    """Levels from easy to hard; () if the difficulty does not change."""
    keywords: Mapping[str, Any]

    def make(self, split: str) -> dict[int | None, TextEnv]:
        """Make the environment once for each level, or once for the key None without levels."""
        if not self.levels:
            return {None: plugins.make(self.env, split=split, **self.keywords)}
        return {
            level: plugins.make(self.env, split=split, level=level, **self.keywords)
            for level in self.levels
        }


def read_entries(of: Mapping[str, Any]) -> list[Entry]:
    """Read `env.of`.

    Raises:
        ConfigError: `of` is empty, or a value is not allowed; the message names the key.
    """
    require(isinstance(of, Mapping) and len(of) > 0, "env.of", of, _EXAMPLE)
    return [_entry(str(name), said) for name, said in of.items()]


def _entry(name: str, said: Any) -> Entry:
    key = f"env.of.{name}"
    given = dict(said) if isinstance(said, Mapping) else {"weight": said}
    leveled = "levels" in given
    weight, levels = given.pop("weight", 1.0), given.pop("levels", ())
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    where = f"{key}.weight" if isinstance(said, Mapping) else key
    require(number and 0 < weight < math.inf, where, weight, "a number above 0")
    whole = isinstance(levels, list | tuple) and all(type(level) is int for level in levels)
    some = whole and bool(levels or not leveled)
    require(some, f"{key}.levels", levels, "one whole number or more, easy to hard")
    for taken, instead in (("split", "the run decides it"), ("level", f"{key}.levels has it")):
        if taken in given and (taken == "split" or levels):
            raise ConfigError(f"{key}.{taken}={given[taken]}: {instead}.")
    env = str(given.pop("env", name))
    return Entry(name=name, env=env, weight=weight, levels=tuple(levels), keywords=given)
