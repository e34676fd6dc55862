"""Entry points of installed packages: found through metadata, loaded on use."""

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from grpo_envs.errors import (
    ConfigError,
    PluginError,
    UnknownName,
    nearest,
    require,
    require_one_of,
    unknown,
)

ENVS = "grpo_envs.envs"
AGENTS = "grpo_envs.agents"
REWARDS = "grpo_envs.rewards"
LOGGERS = "grpo_envs.loggers"
ADVANTAGES = "grpo_envs.advantages"
OBJECTIVES = "grpo_envs.objectives"
CONF = "grpo_envs.conf"
SAMPLERS = "grpo_envs.samplers"

FURTHER = "further"
"""The name of the `**keywords` that an `__init__` passes on to the next class."""
_PLAIN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
}


def available(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name. Reads metadata only; imports nothing."""
    return {ep.name: ep for ep in sorted(_of_group(group), key=lambda ep: ep.name)}


def claims(group: str) -> dict[str, list[str]]:
    """Return the objects that are registered under each name; several if packages conflict."""
    values: dict[str, set[str]] = {}
    for ep in _of_group(group):
        values.setdefault(ep.name, set()).add(ep.value)
    return {name: sorted(found) for name, found in values.items()}


def load(group: str, name: str) -> Any:
    """Import the object that is registered under `name`.

    Raises:
        UnknownName: there is none; the message lists the known names.
        PluginError: two packages claim the name, or the import fails.
    """
    known = available(group)
    if name not in known:
        raise unknown(group.removeprefix("grpo_envs.").removesuffix("s"), name, known)
    values = claims(group)[name]
    if len(values) > 1:
        raise PluginError(f"{group}: several packages claim {name!r}: {', '.join(values)}.")
    try:
        return known[name].load()
    except Exception as error:  # a package's import may raise anything
        cause = f"{type(error).__name__}: {error}"
        raise PluginError(f"{group}: {name!r} ({values[0]}) cannot be loaded: {cause}") from error


def _of_group(group: str) -> EntryPoints:
    """Return a group's entry points; read again only after a folder of packages has changed."""
    folders = (Path(folder or ".") for folder in sys.path)
    state = [(str(path), path.stat().st_mtime_ns if path.exists() else 0) for path in folders]
    return _read(group, tuple(state))


@lru_cache(maxsize=16)  # more than there are groups
def _read(group: str, _: tuple[tuple[str, int], ...]) -> EntryPoints:
    return entry_points(group=group)


def check_keywords(
    target: Callable[..., Any], given: Mapping[str, Any], prefix: str, also: tuple[str, ...] = ()
) -> None:
    """Refuse keywords that `target` does not take.

    Args:
        target: The callable that the keywords are for. Its attribute `renamed`, if it has one,
            maps keywords of earlier versions to their present names (see `TextEnv.renamed`).
        given: The keywords.
        prefix: Text before each keyword in messages, such as "env.".
        also: Further keywords that are allowed.

    Raises:
        UnknownName: the message has the keyword with `prefix`, the allowed keywords and the nearest
            one; for a renamed keyword, its present name.
    """
    parameters = parameters_of(target).values()
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    names, open_ended = [*named, *also], any(p.kind is p.VAR_KEYWORD for p in parameters)
    renamed: Mapping[str, str] = getattr(target, "renamed", {})
    for key in given:
        if key in names:
            continue
        new = renamed.get(key)
        if new is not None and (open_ended or new in names):  # a subclass may take fewer keywords
            raise UnknownName(f"{prefix}{key} is now {prefix}{new}. Write {prefix}{new}=...")
        if not open_ended:
            allowed = ", ".join(prefix + name for name in names if name != "render_mode")
            raise UnknownName(f"no {prefix}{key}. Allowed: {allowed}.{nearest(key, names)}")


def check_values(target: Callable[..., Any], given: Mapping[str, Any], prefix: str) -> None:
    """Refuse values that the signature of `target` rules out.

    Only annotations with plain types are checked.

    Raises:
        ConfigError: a keyword without a default is missing, or a value does not have the plain type
            (int, float, bool, str, None, Literal) of its annotation.
    """
    parameters = parameters_of(target)
    missing = [
        f"{prefix}{p.name}=..."
        for p in parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and p.name not in given
    ]
    if missing:
        raise ConfigError(f"missing: {', '.join(missing)}")
    for key, value in given.items():
        hint = parameters[key].annotation if key in parameters else Any
        if get_origin(hint) is Literal:
            require_one_of(prefix + key, value, get_args(hint))
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if all(kind in _PLAIN for kind in kinds):
            allowed = " or ".join(_PLAIN[kind] for kind in kinds)
            require(any(_is(value, kind) for kind in kinds), prefix + key, value, allowed)


def parameters_of(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a callable by name.

    If the `__init__` of a class has `**further`, the parameters of the next classes that pass on
    keywords replace it.
    """
    found = dict(signature(target).parameters)
    if isinstance(target, type) and FURTHER in found:
        for base in target.__mro__:
            if "__init__" in vars(base):
                own = signature(base).parameters
                if FURTHER not in own:
                    break
                found |= {name: own[name] for name in own if name not in found}
        del found[FURTHER]
    return found


def signature(target: Callable[..., Any]) -> inspect.Signature:
    """Return the signature, with evaluated annotations if their names are known."""
    try:
        return inspect.signature(target, eval_str=True)
    except NameError:  # the name is imported for type checkers only
        return inspect.signature(target)


def _is(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
