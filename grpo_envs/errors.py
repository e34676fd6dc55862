"""Every exception that this package raises on purpose, below one base class.

Every message is one line that says what was given, what is allowed and which allowed name is
nearest.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec

_TRAINING = ("torch", "transformers", "accelerate", "safetensors", "jinja2")
"""Packages of the extra `train` that a model needs."""


class GrpoEnvsError(Exception):
    """Base class of all errors raised by grpo-envs."""


class ConfigError(GrpoEnvsError, ValueError):
    """A mistake in the configuration or in an argument."""


class UnknownName(ConfigError, LookupError):
    """A name (environment, agent, reward component, option, ...) is not known."""


class DatasetError(ConfigError):
    """A dataset is missing, is empty, or lacks columns or rows that the environment needs."""


class PluginError(GrpoEnvsError):
    """An installed plugin cannot be loaded, or two of them claim one name."""


class CheckpointError(GrpoEnvsError):
    """A checkpoint cannot be written; the earlier checkpoints are complete."""


class RunStopped(GrpoEnvsError):
    """A run cannot continue; a checkpoint of the completed steps is kept."""


class ResetNeeded(GrpoEnvsError, RuntimeError):
    """`step` was called before `reset`, or after the episode ended."""


class SandboxError(GrpoEnvsError, RuntimeError):
    """The sandbox itself failed: the reward is invalid, and the answer does not count as wrong."""


class SandboxUnavailable(SandboxError):
    """This machine offers no isolation for running programs; the message lists every probe."""


class ToolFailed(GrpoEnvsError, RuntimeError):
    """A tool, its session or its server failed: the reward is invalid, the call is not wrong."""


class ContractBroken(GrpoEnvsError, AssertionError):
    """An environment breaks a promise that `check_env` verifies."""


def install(extra: str) -> str:
    """Return the command that installs an extra, for a shell in the folder of the repository.

    The project is not on PyPI, so its name alone installs nothing.

    >>> install("peft")
    'pip install -e ".[peft]"'
    """
    return f'pip install -e ".[{extra}]"'


def require_training(what: str, modules: Iterable[str] = _TRAINING) -> None:
    """Raise a ConfigError unless these packages of the extra `train` are installed.

    Args:
        what: What needs them, for the message.
        modules: The import names of the packages.
    """
    require_extra("train", what, modules)


def require_extra(extra: str, what: str, modules: Iterable[str]) -> None:
    """Raise a ConfigError unless these packages of an extra are installed; none is imported.

    Args:
        extra: Name of the extra, for the command that installs it.
        what: What needs them, for the message.
        modules: The import names of the packages.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{what} needs {', '.join(missing)}: {install(extra)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest known spelling, or ''.

    >>> nearest("maths", ["code", "math"])
    " Did you mean 'math'?"
    >>> nearest("zebra", ["code", "math"])
    ''
    """
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """Build an UnknownName that lists the known names and the closest spelling.

    >>> print(unknown("environment", "maths", ["math"]))
    no environment 'maths'. Allowed: math. Did you mean 'math'?
    """
    names = sorted(known)
    return UnknownName(
        f"no {kind} {name!r}. Allowed: {', '.join(names) or 'none'}.{nearest(name, names)}"
    )


def require(holds: bool, key: str, value: object, allowed: str) -> None:
    """Raise a ConfigError with the given value and the allowed values, unless `holds`."""
    if not holds:
        raise ConfigError(f"{key}={value}. Allowed: {allowed}.")


def require_one_of(key: str, value: object, allowed: Iterable[object]) -> None:
    """Raise a ConfigError with the nearest spelling unless `value` is one of `allowed`."""
    options = list(allowed)
    if not any(type(value) is type(option) and value == option for option in options):
        names = [str(option) for option in options]
        close = nearest(str(value), names)
        raise ConfigError(f"{key}={value}. Allowed: {', '.join(names)}.{close}")
