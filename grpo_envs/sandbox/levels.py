"""Isolation levels by name, and the choice of one that works on this machine."""

import platform
import sys
from pathlib import Path

from grpo_envs.errors import SandboxError, SandboxUnavailable, require_one_of
from grpo_envs.runtime.progress import phase
from grpo_envs.sandbox.acts import trial
from grpo_envs.sandbox.confine import MACHINE
from grpo_envs.sandbox.probes import bwrap_path, probe_all
from grpo_envs.sandbox.worker import Setting, folders

LEVELS = ("auto", "bubblewrap", "confined", "unsafe", "degraded")
"""`confined`: Landlock, a filter of system calls, no capabilities, limits. It cannot hide that a
file exists, nor its size, owner and dates: a program can call `stat`. `bubblewrap`: namespaces in
addition. `auto` is bubblewrap if it works, else confined. `unsafe` and `degraded` (for macOS) have
limits only, and are never chosen by `auto`."""
SAFE = ("bubblewrap", "confined")

_PROVEN: dict[tuple[str, tuple[str, ...]], Setting] = {}
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime")


def check(level: str) -> None:
    """Raise a ConfigError unless there is a level of that name."""
    require_one_of("level", level, LEVELS)


def choose(level: str, preload: tuple[str, ...]) -> Setting:
    """Return how the workers of a level start; a safe level has passed its self-test.

    Raises:
        SandboxUnavailable: no level works; the message lists the reasons and remedies.
        ConfigError: a package to preload is not installed.
    """
    folders(preload)
    if level not in ("auto", *SAFE):
        return Setting(level=level, preload=preload)
    refused = []
    for name in SAFE if level == "auto" else (level,):
        try:
            return _proven(name, preload)
        except SandboxError as error:
            refused.append(f"{name}: {error}")
    missing = [f"{p.name}: {p.found} ({p.remedy})" for p in probe_all() if not p.good]
    raise SandboxUnavailable(
        f"no isolation works here. {' '.join(refused)} Probes: {'; '.join(missing) or 'all good'}."
        " level=unsafe runs programs with limits only."
    )


def _proven(level: str, preload: tuple[str, ...]) -> Setting:
    key = level, preload
    if key not in _PROVEN:
        if MACHINE is None:
            raise SandboxError(f"no table of system calls for {platform.machine()}.")
        wrapper = _bwrap(preload) if level == "bubblewrap" else ()
        setting = Setting(level=level, wrapper=wrapper, preload=preload)
        with phase(f"testing the isolation of programs ({level})"):
            broken = [result for result in trial(setting) if result.problem]
        if broken:
            problems = "; ".join(f"{result.act}: {result.problem}" for result in broken)
            raise SandboxError(f"the self-test failed: {problems}.")
        _PROVEN[key] = setting
    return _PROVEN[key]


def _bwrap(preload: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command that runs a zygote in its own namespaces."""
    path = bwrap_path()
    if path is None:
        raise SandboxError("there is no bwrap.")
    own = str(Path(__file__).parent)
    binds = []
    for place in dict.fromkeys((*_SYSTEM, sys.base_prefix, sys.prefix, *folders(preload), own)):
        where = Path(place)
        if where.is_symlink():
            binds += ["--symlink", str(where.readlink()), place]
        elif where.exists():
            binds += ["--ro-bind", place, place]
    spaces = [f"--unshare-{space}" for space in ("user", "ipc", "pid", "net", "uts", "cgroup-try")]
    rest = ["--die-with-parent", "--as-pid-1", "--cap-drop", "ALL", "--dev", "/dev", "--chdir", "/"]
    return (path, *spaces, *rest, *binds, "--")
