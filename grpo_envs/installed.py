"""Entry points of installed packages: found through metadata, loaded on use."""

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from grpo_envs.errors import PluginError, UnknownName, nearest, unknown

ENVS = "grpo_envs.envs"
AGENTS = "grpo_envs.agents"
REWARDS = "grpo_envs.rewards"
LOGGERS = "grpo_envs.loggers"
CONF = "grpo_envs.conf"


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
