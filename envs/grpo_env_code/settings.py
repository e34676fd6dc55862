"""The user's settings of the sandbox, limits and packages, checked before a program runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from grpo_envs.errors import ConfigError, nearest, require, require_one_of
from grpo_envs.sandbox.shared import shared_pool
from grpo_envs.sandbox.types import Backend, Limits

_MOST = 1 << 20
_LEAST_MIB = 16


def checked_limits(wall_s: float, given: Mapping[str, Any] | None) -> Limits:
    """Return the limits of a program.

    Raises:
        ConfigError: there is no limit of that name, or a value is not allowed.
    """
    positive = isinstance(wall_s, int | float) and 0 < wall_s <= 600
    require(positive, "env.wall_s", wall_s, "seconds, at most 600")
    usual = asdict(Limits(wall_s=float(wall_s), cpu_s=max(1, round(wall_s) - 1)))
    allowed = [name for name in usual if name != "wall_s"]
    require(given is None or isinstance(given, Mapping), "env.limits", given, "limits by name")
    for name, value in (given or {}).items():
        if name not in allowed:
            close = nearest(str(name), allowed)
            text = f"env.limits={name}. Allowed: {', '.join(allowed)}.{close}"
            raise ConfigError(text)
        kinds = (int, float) if name == "total_s" else (int,)
        least = _LEAST_MIB if name == "memory_mib" else 1
        good = type(value) in kinds and least <= value <= _MOST
        require(good, f"env.limits.{name}", value, f"{least} to {_MOST}")
        usual[name] = float(value) if name == "total_s" else value
    return Limits(**usual)


def require_turns(turns: int, tools: str | None) -> None:
    """Require at least two turns if there is a tool: one for a call.

    Raises:
        ConfigError: there are too few turns, or there is no such tool.
    """
    require_one_of("env.tools", tools, (None, "python"))
    least, where = (2, " with env.tools=python") if tools else (1, "")
    whole = type(turns) is int and least <= turns <= 20
    require(whole, "env.turns", turns, f"{least} to 20{where}")


def checked_packages(given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of packages.

    Raises:
        ConfigError: a package is not installed, or `given` is not a list of names.
    """
    named = isinstance(given, Sequence) and not isinstance(given, str)
    good = given is None or (named and all(isinstance(name, str) for name in given))
    require(good, "env.packages", given, "a list of names, such as [pandas, sympy]")
    for name in given or ():
        if not name.isidentifier() or find_spec(name) is None:
            text = f"env.packages={name}. Allowed: packages that are installed: pip install {name}"
            raise ConfigError(f"{text}.")
    return tuple(dict.fromkeys(given or ()))


def preloaded(packages: Sequence[str]) -> tuple[str, ...] | None:
    """Return the packages that the sandbox imports at its start; None for its default."""
    if not packages:
        return None
    numpy = ["numpy"] if find_spec("numpy") else []
    return tuple(dict.fromkeys([*numpy, *packages]))


def backend_with(packages: Sequence[str], sandbox: str, workers: int | None) -> Backend:
    """Return the sandbox of a level, in which programs can import the packages.

    Raises:
        ConfigError: a package cannot be imported there, or there is no such level.
        SandboxUnavailable: this machine has no isolation of that level.
    """
    backend = shared_pool(sandbox, workers, preloaded(packages))
    try_packages(packages, backend)
    return backend


def try_packages(packages: Sequence[str], backend: Backend) -> None:
    """Import packages in the sandbox, if there are any.

    Raises:
        ConfigError: a package cannot be imported there.
        SandboxError: the sandbox does not start with the packages.
    """
    if not packages:
        return
    result = backend.run("\n".join(f"import {name}" for name in packages))
    if result.status != "ok":
        lines = result.stderr.strip().splitlines() or [result.status]
        text = f"env.packages={','.join(packages)}. Allowed: packages that can be imported there"
        raise ConfigError(f"{text} ({lines[-1][:200]}).")
