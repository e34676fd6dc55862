"""Advantages and objectives by name: installed ones, and `package.module:function`.

Without torch: the check of a configuration imports functions of other packages only.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache, partial
from importlib import import_module
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from grpo_agent.loss_options import OPTIONS, options_of
from grpo_envs.env.installed import (
    ADVANTAGES,
    OBJECTIVES,
    check_keywords,
    check_values,
    claims,
    load,
)
from grpo_envs.errors import ConfigError, PluginError, UnknownName, nearest

if TYPE_CHECKING:
    from grpo_agent.config import LossConfig
    from grpo_agent.reward_config import AdvantageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A choice of the agent to which other packages can add functions."""

    group: str
    """Entry-point group of the functions."""
    table: str
    """The configuration table whose keys fill the keyword parameters of the same name."""
    selector: str
    """The key that names the function."""
    form: str
    """The signature of a function."""
    arguments: int
    """Number of its positional arguments."""

    @property
    def key(self) -> str:
        """The full name of the selector."""
        return f"{self.table}.{self.selector}"


ADVANTAGE = Kind(
    group=ADVANTAGES,
    table="agent.advantage",
    selector="name",
    form="f(scores, *, option=default)",
    arguments=1,
)
OBJECTIVE = Kind(
    group=OBJECTIVES,
    table="agent.loss",
    selector="objective",
    form="f(ratio_BT, x, *, option=default)",
    arguments=2,
)


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A function with its options."""

    said: str
    """The key and value that name the function: its error messages begin with them."""
    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """Call the function; the caller checks what it returns."""
        return self.function(*arguments)

    def refuse(self, returned: object, wanted: str) -> ConfigError:
        """Return the error for a returned value of the wrong kind."""
        return ConfigError(f"{self.said} returned {_shown(returned)}. Allowed: {wanted}.")


def require_known(kind: Kind, name: str) -> None:
    """Refuse a name that is neither installed nor of the form `package.module:function`."""
    module, colon, path = name.partition(":")
    names = [*module.split("."), *path.split(".")]
    known = list(_registered(kind.group, tuple(sys.path)))
    if name not in known and not (colon and all(part.isidentifier() for part in names)):
        allowed = ", ".join([*known, "or package.module:function"])
        raise ConfigError(f"{kind.key}={name}. Allowed: {allowed}.{nearest(name, known)}")


def check(kind: Kind, cfg: AdvantageConfig | LossConfig) -> None:
    """Refuse a function that cannot be imported, and options that it does not have.

    Functions of grpo_agent are not imported, because they import torch; see `OPTIONS`.

    Raises:
        ConfigError: an option is unknown, missing or of another type.
        PluginError: the function cannot be imported or is not a function.
    """
    name = getattr(cfg, kind.selector)
    values = _registered(kind.group, tuple(sys.path)).get(name, ())
    if values and all(value.startswith("grpo_agent.") for value in values):
        if not _is_ours(kind, name):  # whose options the configuration has checked itself
            _require_none(kind, name, cfg.options)
    else:
        resolve(kind, cfg)


def resolve(kind: Kind, cfg: AdvantageConfig | LossConfig) -> Mechanism:
    """Import the function that `cfg` names and bind its options.

    Raises:
        ConfigError: an option is unknown, missing or of another type.
        PluginError: the function cannot be imported or is not a function.
    """
    name = getattr(cfg, kind.selector)
    said = f"{kind.key}={name}"
    parameters = _keywords(kind, said, function := _function(kind, said, name))
    own = {f.name for f in fields(cfg)} - {kind.selector, "options"}
    for key in own.intersection(cfg.options):
        raise UnknownName(f"no {kind.table}.options.{key}. Allowed: {kind.table}.{key}.")
    filled = [p for p in parameters if p.name in own and p.kind is not p.VAR_KEYWORD]
    optional = [p for p in parameters if p not in filled]
    options: dict[str, Any] = cfg.options
    if _is_ours(kind, name):  # some are the agent's, which chooses tokens by them
        asked = {p.name for p in optional}
        own_options = options_of(cast("LossConfig", cfg))
        options = {key: value for key, value in own_options.items() if key in asked}
    elif not optional:
        _require_none(kind, name, options)
    prefix = f"{kind.table}.options."
    check_keywords(_Taking(optional), options, prefix)
    check_values(_Taking(optional), options, prefix)
    values = {p.name: getattr(cfg, p.name) for p in filled}
    check_values(_Taking(filled), values, f"{kind.table}.")
    return Mechanism(said, partial(function, **values, **options))


def _is_ours(kind: Kind, name: str) -> bool:
    """Return whether the name is of one of our own objectives that has options."""
    return kind is OBJECTIVE and name in OPTIONS


@cache
def _registered(group: str, path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Return the registered values by name; they are read once for each value of `sys.path`."""
    return dict(sorted(claims(group).items()))


def _require_none(kind: Kind, name: str, options: Mapping[str, Any]) -> None:
    for option in options:
        key = f"{kind.table}.options.{option}"
        raise UnknownName(f"no {key}. Allowed: none, {name} has no options.")


def _function(kind: Kind, said: str, name: str) -> Any:
    """Import a function by its installed name, or by `package.module:function`."""
    if ":" in name:
        return _imported(said, name)
    values = _registered(kind.group, tuple(sys.path)).get(name, ())
    if len(values) != 1:
        return load(kind.group, name)  # raises an error that says what is wrong
    return _imported(said, values[0])


def _imported(said: str, name: str) -> Any:
    module, _, path = name.partition(":")
    try:
        found: Any = import_module(module)
    except Exception as error:  # the import of another package can raise anything
        cause = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(".")
        here = {"", str(Path.cwd())}.isdisjoint(sys.path) and isinstance(error, ModuleNotFoundError)
        hint = " `python -m grpo_envs.run` looks in this folder, too." if here else ""
        raise PluginError(f"{said}: {module} cannot be imported: {cause}.{hint}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            known = [key for key, value in vars(found).items() if _is_of(value, module)]
            allowed = f"Allowed: {', '.join(known) or 'none'}."
            raise UnknownName(f"{said}: no {path} in {module}. {allowed}{nearest(part, known)}")
        found = getattr(found, part)
    return found


def _is_of(value: object, module: str) -> bool:
    """Return whether a value is a function or class that this module defines."""
    return callable(value) and getattr(value, "__module__", None) == module


def _keywords(kind: Kind, said: str, function: Any) -> list[Parameter]:
    """Return the parameters of a function that follow its positional arguments."""
    allowed = f"Allowed: a function {kind.form}."
    if not callable(function):
        raise PluginError(f"{said} is {function!r}. {allowed}")
    called = "has no signature"
    try:
        called = f"is called as f{_signature(function)}"
        signature = _signature(partial(function, *[None] * kind.arguments))
    except (TypeError, ValueError) as error:  # too few parameters, or a C function
        raise PluginError(f"{said} {called}. {allowed}") from error
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_POSITIONAL]
    if any(p.kind is p.POSITIONAL_ONLY for p in parameters):
        raise PluginError(f"{said} {called}. {allowed}")
    return parameters


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, SyntaxError):  # names that only type checkers import
        return inspect.signature(function)


class _Taking:
    """A function with these parameters alone, for checks that read a signature."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self.__signature__ = inspect.Signature(
            [p if p.kind is p.VAR_KEYWORD else p.replace(kind=p.KEYWORD_ONLY) for p in parameters]
        )

    def __call__(self) -> None:
        """Do nothing."""


def _shown(value: object) -> str:
    """Return the type of a value, and its shape if it has one.

    >>> _shown((1, None))
    '(int, NoneType)'
    """
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    shape = getattr(value, "shape", None)
    if shape is None:
        return type(value).__name__
    return f"{type(value).__name__} of shape {tuple(shape)}"
