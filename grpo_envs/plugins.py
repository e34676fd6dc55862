"""What installed packages bring, made for use: `make` an environment by its name.

The built-in environments and agents register exactly as a third-party package does.
"""

from __future__ import annotations

import dataclasses
import warnings
from functools import cache
from pathlib import Path
from typing import Any, cast

import gymnasium

from grpo_envs.env import TextEnv
from grpo_envs.errors import PluginError
from grpo_envs.installed import ENVS, available, check_keywords, load
from grpo_envs.vector import GroupVectorEnv


@cache
def conf_dir() -> Path:
    """Return conf/: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise PluginError(f"no conf/config.yaml in or beside {package}: reinstall grpo-envs.")


def register_envs() -> None:
    """Register `grpo_envs/<name>-v0` with Gymnasium for every installed environment."""
    for name, ep in available(ENVS).items():
        try:
            gymnasium.register(
                id=f"grpo_envs/{name}-v0",
                entry_point=f"{ep.module}:{ep.attr}",
                vector_entry_point=f"grpo_envs.vector_entry:{name}",
                disable_env_checker=True,  # `grpo_envs.check_env` checks more, when asked
            )
        except gymnasium.error.Error as error:  # a name that is no Gymnasium id
            text = f"{ENVS}: {name!r} ({ep.value}) cannot be registered: {error}"
            warnings.warn(text, stacklevel=2)


def make(name: str, **kwargs: Any) -> TextEnv:
    """Make the environment registered under `name`: `make("math", split="eval", level=2)`.

    Raises:
        UnknownName: no such environment, or it has no such keyword.
        PluginError: its package cannot be loaded.
    """
    target = load(ENVS, name)
    if not (isinstance(target, type) and issubclass(target, TextEnv)):
        raise PluginError(f"{ENVS}: {name!r} is {target!r}, which is no TextEnv.")
    check_keywords(target, kwargs, "env.")
    spec = gymnasium.spec(f"grpo_envs/{name}-v0")
    # Within the spec, because `id` and other parameters of gymnasium.make are keywords of some.
    spec = dataclasses.replace(spec, kwargs={**spec.kwargs, **kwargs})
    return cast("TextEnv", gymnasium.make(spec).unwrapped)


def make_groups(name: str, num_envs: int, group_size: int = 1, **kwargs: Any) -> GroupVectorEnv:
    """Make `num_envs` members of the environment `name`, `group_size` on each problem."""
    check_keywords(load(ENVS, name), kwargs, "env.", also=("group_size",))
    return GroupVectorEnv(make(name, **kwargs), num_envs, group_size)
