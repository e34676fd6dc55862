"""Rights that a process gives up for good, by system calls that Python does not offer.

Landlock restricts the files that may be opened, seccomp the system calls. Both are inherited and
cannot be undone. See the kernel's `userspace-api/landlock` and `seccomp_filter`.
"""

import ctypes
import os
import platform
import resource
import stat
import struct
from collections.abc import Iterable
from typing import Any

from grpo_envs.sandbox.syscalls import MACHINES

Bound = tuple[int, tuple[int, int]]
"""A resource, its soft and its hard limit."""
MACHINE = MACHINES.get(platform.machine())
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38
_CREATE_VERSION, _RULE_PATH_BENEATH, _SECCOMP_FILTER_MODE = 1, 1, 1
_CAPABILITIES_V3 = 0x20080522
_SIGKILL = 9

# Landlock's rights on files; a kernel refuses rights that its ABI does not know.
_EXECUTE, _WRITE, _READ, _LIST = 1, 2, 4, 8
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_RIGHTS_BY_ABI = {1: 1 << 13, 2: 1 << 14, 3: 1 << 15, 5: 1 << 16}  # one above the highest right
_NETWORK_ABI, _SCOPE_ABI = 4, 6

_LIBC = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int | ctypes.Array[ctypes.c_char]) -> int:
    """Make a system call of `MACHINE.own`; OSError if it fails."""
    if MACHINE is None:
        raise OSError(38, f"no table of system calls for {platform.machine()}")
    return _checked(_LIBC.syscall(*_longs(MACHINE.own[name], *arguments)), name)


def _longs(*arguments: int | ctypes.Array[ctypes.c_char]) -> list[Any]:
    return [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]


def _prctl(*arguments: int) -> None:
    _checked(_LIBC.prctl(*_longs(*(*arguments, 0, 0, 0, 0)[:5])), "prctl")


# For the calls of each child. Without use_errno, whose memory each child would copy.
_BARE = ctypes.CDLL(None)
_BARE_PRCTL = getattr(_BARE, "prctl", None)
_DIE_WITH_PARENT = _longs(_PR_SET_PDEATHSIG, _SIGKILL)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def die_with_parent() -> None:
    """Have this process killed when the thread that forked it ends."""
    if _BARE_PRCTL is not None and _BARE_PRCTL(*_DIE_WITH_PARENT) < 0:
        _prctl(_PR_SET_PDEATHSIG, _SIGKILL)  # again, with errno


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants."""
    if hasattr(_LIBC, "prctl"):
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
    """Keep other processes of the same user out: no ptrace, no /proc/<pid>/mem."""
    _prctl(_PR_SET_DUMPABLE, 0)


def no_new_privileges() -> None:
    """Remove the effect of set-user-id programs, from here on."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Give up the capabilities of root; root's files can still be opened as their owner."""
    header = struct.pack("<Ii", _CAPABILITIES_V3, 0)
    _call("capset", _buffer(header), _buffer(bytes(24)))


def become(uid: int) -> bool:
    """Become a user that owns nothing; False if this process may not."""
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError:
        return False
    return True


def landlock_abi() -> int:
    """Return the version of Landlock, or 0 if there is none."""
    try:
        return _call("landlock_create_ruleset", 0, 0, _CREATE_VERSION)
    except OSError:
        return 0


def landlock(readable: Iterable[str], listable: Iterable[str], writable: Iterable[str]) -> None:
    """Restrict this process to these files, and forbid connections.

    Args:
        readable: Files, and folders with all that is in them.
        listable: Folders whose names may be listed, with all folders in them.
        writable: Devices that may be read and written.
    """
    abi = landlock_abi()
    if not abi:
        raise OSError(38, "no Landlock")
    rights = max(top for version, top in _RIGHTS_BY_ABI.items() if version <= abi) - 1
    network = 3 if abi >= _NETWORK_ABI else 0
    scope = 3 if abi >= _SCOPE_ABI else 0
    size = 24 if abi >= _SCOPE_ABI else 16 if abi >= _NETWORK_ABI else 8
    attributes = struct.pack("<QQQ", rights, network, scope)[:size]
    ruleset = _call("landlock_create_ruleset", _buffer(attributes), size, 0)
    granted = [(path, _READ | _LIST) for path in readable]
    granted += [(path, _LIST) for path in listable]
    granted += [(path, _READ | _WRITE | _TRUNCATE | _IOCTL) for path in writable]
    for path, access in granted:
        _grant(ruleset, path, access & rights)
    _call("landlock_restrict_self", ruleset, 0)
    os.close(ruleset)


def _grant(ruleset: int, path: str, access: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it does not exist
        return
    if not stat.S_ISDIR(os.fstat(beneath).st_mode):
        access &= ~_LIST
    rule = struct.pack("<Qi", access, beneath)
    _call("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, _buffer(rule), 0)
    os.close(beneath)


def seccomp(program: bytes) -> None:
    """Filter every system call of this process and its descendants by `program`."""
    code = _buffer(program)
    header = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    _call("seccomp", _SECCOMP_FILTER_MODE, 0, _buffer(header))


class Filter:
    """A filter for one process, prepared before the fork that creates the process."""

    def __init__(self, program: bytes, mark: bytes) -> None:
        """Prepare the filter.

        Args:
            program: See `seccomp`.
            mark: Bytes in the program that stand for the process id.
        """
        self.code = _buffer(program)
        self.places = [at for at in range(4, len(program), 8) if program[at : at + 4] == mark]
        header = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(self.code))
        assert MACHINE is not None, "an architecture without a table"
        call = MACHINE.own["seccomp"], _SECCOMP_FILTER_MODE, 0, _buffer(header)
        self.call = _longs(*call)
        self.syscall = _BARE.syscall

    def install(self, pid: int) -> None:
        """Filter every system call of this process, which is `pid`."""
        for place in self.places:
            struct.pack_into("<I", self.code, place, pid)
        if self.syscall(*self.call) < 0:
            _checked(_LIBC.syscall(*self.call), "seccomp")  # again, with errno


def seccomp_known() -> bool:
    """Return whether the kernel has seccomp: only then a filter at address 0 gives EFAULT."""
    try:
        _call("seccomp", _SECCOMP_FILTER_MODE, 0, 0)
    except OSError as error:
        return error.errno == 14
    return False


def bound(which: int, most: int, grace: int = 0) -> Bound:
    """Return a resource limit whose hard limit is higher by `grace`; lower limits are kept."""
    _, hard = resource.getrlimit(which)
    hard = most + grace if hard == resource.RLIM_INFINITY else min(most + grace, hard)
    return which, (min(most, hard), hard)


def limit(bounds: Iterable[Bound]) -> None:
    """Set resource limits."""
    for which, both in bounds:
        try:  # noqa: SIM105  every child does this, and `suppress` takes longer than the rest
            resource.setrlimit(which, both)
        except (OSError, ValueError):  # not every system has every limit
            pass


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))
