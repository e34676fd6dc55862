"""Every exception this package raises on purpose. One base class, so callers can catch one name.

Every message is one line that says what was given, what is allowed and what comes nearest.
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
    """A name (environment, agent, reward part, option, ...) is not in its table."""


class DatasetError(ConfigError):
    """A dataset is missing, empty, or lacks what the environment needs of it."""


class PluginError(GrpoEnvsError):
    """An installed plugin cannot be loaded, or two of them claim one name."""


class CheckpointError(GrpoEnvsError):
    """A checkpoint cannot be written; those before it are whole."""


class RunStopped(GrpoEnvsError):
    """A run cannot go on; a checkpoint of the steps before is kept."""


class ResetNeeded(GrpoEnvsError, RuntimeError):
    """`step` was called before `reset`, or after the episode ended."""


class SandboxError(GrpoEnvsError, RuntimeError):
    """The sandbox itself failed: the answer is not wrong, its reward is invalid."""


class SandboxUnavailable(SandboxError):
    """This machine gives no isolation that a program may run in; every probe is listed."""


class ToolFailed(GrpoEnvsError, RuntimeError):
    """A tool, its session or its server failed: the call is not wrong, its reward is invalid."""


class ContractBroken(GrpoEnvsError, AssertionError):
    """An environment breaks a promise that `check_env` verifies."""


def install(extra: str) -> str:
    """Return the command that installs an extra, for a shell in the folder of the repository.

    The project is not on PyPI, so that its name alone installs nothing.

    >>> install("peft")
    'pip install -e ".[peft]"'
    """
    return f'pip install -e ".[{extra}]"'


def require_training(what: str, modules: Iterable[str] = _TRAINING) -> None:
    """Raise a ConfigError unless these packages of the extra `train` are installed.

    Args:
        what: What needs them, for the message.
        modules: Their names, as they are imported.
    """
    require_extra("train", what, modules)


def require_extra(extra: str, what: str, modules: Iterable[str]) -> None:
    """Raise a ConfigError unless these packages of an extra are installed; none is imported.

    Args:
        extra: Its name, for the command that installs it.
        what: What needs them, for the message.
        modules: Their names, as they are imported.
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
    """Build an UnknownName that lists what is known and names the closest spelling.

    >>> print(unknown("environment", "maths", ["math"]))
    no environment 'maths'. Allowed: math. Did you mean 'math'?
    """
    names = sorted(known)
    return UnknownName(
        f"no {kind} {name!r}. Allowed: {', '.join(names) or 'none'}.{nearest(name, names)}"
    )


def require(holds: bool, key: str, value: object, allowed: str) -> None:
    """Raise a ConfigError that says what `key` was given and what is allowed, unless it holds."""
    if not holds:
        raise ConfigError(f"{key}={value}. Allowed: {allowed}.")


def require_one_of(key: str, value: object, allowed: Iterable[object]) -> None:
    """Raise a ConfigError with the nearest spelling unless `value` is one of `allowed`."""
    options = list(allowed)
    if not any(type(value) is type(option) and value == option for option in options):
        names = [str(option) for option in options]
        close = nearest(str(value), names)
        raise ConfigError(f"{key}={value}. Allowed: {', '.join(names)}.{close}")
