"""What installed packages bring: found through entry points, loaded on use.

The built-in environments and agents register exactly as a third-party package does.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

import gymnasium

from grpo_envs.env import TextEnv
from grpo_envs.errors import PluginError, UnknownName, nearest, unknown
from grpo_envs.vector import GroupVectorEnv

ENVS = "grpo_envs.envs"
AGENTS = "grpo_envs.agents"


@cache
def conf_dir() -> Path:
    """Return conf/: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise PluginError(f"no conf/config.yaml in or beside {package}: reinstall grpo-envs.")


def available(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name. Reads metadata only; imports nothing."""
    return {ep.name: ep for ep in sorted(entry_points(group=group), key=lambda ep: ep.name)}


def load(group: str, name: str) -> Any:
    """Import what is registered under `name`.

    Raises:
        UnknownName: nothing is; the message lists what there is.
        PluginError: two packages claim the name, or the import fails.
    """
    known = available(group)
    if name not in known:
        raise unknown(group.removeprefix("grpo_envs.").removesuffix("s"), name, known)
    claims = sorted({ep.value for ep in entry_points(group=group, name=name)})
    if len(claims) > 1:
        raise PluginError(f"{group}: several packages claim {name!r}: {', '.join(claims)}.")
    try:
        return known[name].load()
    except Exception as error:  # anything can go wrong in somebody else's import
        cause = f"{type(error).__name__}: {error}"
        raise PluginError(f"{group}: {name!r} ({claims[0]}) cannot be loaded: {cause}") from error


def check_keywords(
    target: Callable[..., Any], given: Mapping[str, Any], prefix: str, also: tuple[str, ...] = ()
) -> None:
    """Refuse keywords that `target` does not take.

    Raises:
        UnknownName: naming the keyword with `prefix`, what is allowed (`also` is) and the nearest.
    """
    parameters = inspect.signature(target).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = [*(p.name for p in parameters if p.kind is not p.VAR_POSITIONAL), *also]
    for key in given:
        if key not in names:
            allowed = ", ".join(prefix + name for name in names if name != "render_mode")
            raise UnknownName(f"no {prefix}{key}. Allowed: {allowed}.{nearest(key, names)}")


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
    return cast("TextEnv", gymnasium.make(f"grpo_envs/{name}-v0", **kwargs).unwrapped)


def make_groups(name: str, num_envs: int, group_size: int = 1, **kwargs: Any) -> GroupVectorEnv:
    """Make `num_envs` members of the environment `name`, `group_size` on each problem."""
    check_keywords(load(ENVS, name), kwargs, "env.", also=("group_size",))
    return GroupVectorEnv(make(name, **kwargs), num_envs, group_size)
