"""Environments of installed packages: `make` creates one by its name.

The built-in environments and agents register exactly as a third-party package does.
"""

from __future__ import annotations

import dataclasses
import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import gymnasium

from grpo_envs.env.installed import ENVS, available, check_keywords, check_values, claims, load
from grpo_envs.env.shots import find_shots
from grpo_envs.env.text import TextEnv
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import PluginError


@cache
def conf_dir() -> Path:
    """Return conf/: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise PluginError(f"no conf/config.yaml in or beside {package}: reinstall grpo-envs.")


def register_envs() -> None:
    """Register `grpo_envs/<name>-v0` with Gymnasium for every installed environment."""
    claimed = claims(ENVS)  # all at once: each call reads the metadata of every package
    for name, ep in available(ENVS).items():
        alone = len(claimed[name]) == 1
        try:
            gymnasium.register(
                id=f"grpo_envs/{name}-v0",
                entry_point=f"{ep.module}:{ep.attr}" if alone else partial(_refuse, name),
                vector_entry_point=f"grpo_envs.env.vector_entry:{name}",
                disable_env_checker=True,  # `grpo_envs.check_env` checks more, on request
            )
        except gymnasium.error.Error as error:  # a name that is no Gymnasium id
            text = f"{ENVS}: {name!r} ({ep.value}) cannot be registered: {error}"
            warnings.warn(text, stacklevel=2)


def _refuse(name: str, **_: Any) -> TextEnv:
    """Report on use that several packages claim this name; other environments stay usable."""
    return cast("TextEnv", load(ENVS, name))


def make(name: str, *, shots: int = 0, **kwargs: Any) -> TextEnv:
    """Make the environment registered under `name`: `make("math", split="eval", level=2)`.

    Args:
        name: Entry point of the environment.
        shots: Number of solved training problems before each problem, see `shots.py`.
        **kwargs: Keywords of the environment's constructor.

    Raises:
        ConfigError: the environment or a keyword is unknown, or a value is not allowed.
        PluginError: its package cannot be loaded.
    """
    target = load(ENVS, name)
    if not (isinstance(target, type) and issubclass(target, TextEnv)):
        raise PluginError(f"{ENVS}: {name!r} is {target!r}, which is not a TextEnv.")
    check_keywords(target, kwargs, "env.")
    spec = gymnasium.spec(f"grpo_envs/{name}-v0")
    # In the spec: some environments have keywords like `id`, which gymnasium.make takes itself.
    spec = dataclasses.replace(spec, kwargs={**spec.kwargs, **kwargs})
    try:
        env = gymnasium.make(spec).unwrapped
    except TypeError:
        check_values(target, kwargs, "env.")
        raise
    cast("TextEnv", env).require_columns()
    check_values(target, kwargs, "env.")  # last: the environment's own messages are better
    made = cast("TextEnv", env)
    made.shots = find_shots(made, shots)
    return made


def make_groups(name: str, num_envs: int, group_size: int = 1, **kwargs: Any) -> GroupVectorEnv:
    """Make `num_envs` members of the environment `name`, `group_size` on each problem."""
    check_keywords(load(ENVS, name), kwargs, "env.", also=("group_size", "shots"))
    return GroupVectorEnv(make(name, **kwargs), num_envs, group_size)
