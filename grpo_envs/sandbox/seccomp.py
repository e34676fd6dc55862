"""The system call filter: listed calls are allowed, all others fail with EPERM.

Landlock decides which files may be opened. It does not cover chmod, chown, utime, xattr, unix
sockets, UDP, memfd, io_uring, signals (before ABI 6) and truncation (before ABI 3): the filter
refuses all of these.

A classic BPF program reads `struct seccomp_data`: number, architecture, arguments.

There are two filters, because the kernel compiles a filter on each installation, which takes a
tenth of a short run. The large filter is installed once, in the zygote, and inherited. The small
one is installed in each child and refuses calls that only the zygote needs. The stricter verdict
counts.
"""

import errno
import os
import resource
import struct
from collections.abc import Iterable

from grpo_envs.sandbox.syscalls import Machine

Instruction = tuple[int, int, int, int]
"""Operation, jump if true, jump if false, constant."""

LOAD, AND, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE = 0, 4
_X32 = 0x40000000

_CLONE_THREAD, _CLONE_NEW = 0x00010000, 0x7E020000
_PR_NAME = (15, 16, 0x53564D41)  # set and get a thread's name, name a mapping (glibc)
_PR_SET_PDEATHSIG = 1
_FD_IOCTLS = (0x5451, 0x5450, 0x5421, 0x541B)  # FIOCLEX FIONCLEX FIONBIO FIONREAD
# Duplicates, flags, locks and the size of a pipe; not F_SETOWN, whose owner gets signals.
_FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)
_SIGKILL = 9


def refuse(error: int) -> int:
    """Return the verdict that makes a call fail with `error`."""
    return REFUSE | error


def inherited(machine: Machine) -> list[Instruction]:
    """Return the filter of the zygote and its children."""
    refused = [(RETURN, 0, 0, refuse(errno.EPERM))]
    bodies = {number: _verdict() for number in (machine.plain | machine.forking).values()}
    checks = _checks()
    bodies |= {number: checks[name] for name, number in machine.checked.items()}
    starts = _starts(bodies, refused)
    if machine.x32:
        starts[_X32] = [(RETURN, 0, 0, KILL)]
    return [
        (LOAD, 0, 0, _ARCHITECTURE),
        (EQUAL, 1, 0, machine.audit),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, _NUMBER),
        *_search(_merged(starts)),
    ]


def own(machine: Machine, pid: int) -> list[Instruction]:
    """Return the filter of the child `pid`, which may not fork, and may signal only itself."""
    bodies = {number: [(RETURN, 0, 0, refuse(errno.EPERM))] for number in machine.forking.values()}
    bodies |= {machine.checked[name]: body for name, body in _own_checks(pid).items()}
    return [(LOAD, 0, 0, _NUMBER), *_search(_merged(_starts(bodies, _verdict())))]


def _starts(
    bodies: dict[int, list[Instruction]], between: list[Instruction]
) -> dict[int, list[Instruction]]:
    """Return the code from each number on; `between` is for numbers without a body."""
    starts = {0: between}
    for number in sorted(bodies):
        starts |= {number: bodies[number], number + 1: between}
    return starts


def _merged(starts: dict[int, list[Instruction]]) -> list[tuple[int, list[Instruction]]]:
    """Return ranges of numbers, each with its start and its code."""
    ranges: list[tuple[int, list[Instruction]]] = []
    for start, body in sorted(starts.items()):
        if not ranges or ranges[-1][1] != body:
            ranges.append((start, body))
    return ranges


def _search(ranges: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Find the number's range by bisection, as the kernel tries every number at installation."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    return [(AT_LEAST, len(below), 0, ranges[middle][0]), *below, *above]


def assemble(instructions: Iterable[Instruction]) -> bytes:
    """Return an array of `struct sock_filter`."""
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)


def _checks() -> dict[str, list[Instruction]]:
    """Return the checks of calls' arguments. Each body ends in a verdict on every path."""
    missing = [(RETURN, 0, 0, refuse(errno.ENOSYS))]  # the C library then uses the older call
    later = "clone", "kill", "tgkill", "setrlimit", "prlimit64"  # `_own_checks`
    return dict.fromkeys(later, _verdict()) | {
        "clone3": missing,  # a filter cannot read flags behind a pointer
        "openat2": missing,
        "mbind": missing,
        "open": _opens(1),
        "openat": _opens(2),
        "socketpair": [*_unless(_one_of(0, [1])), *_verdict()],  # AF_UNIX
        "sendto": [*_unless(_one_of(4, [0])), *_unless(_one_of(4, [0], high=True)), *_verdict()],
        "prctl": [*_unless(_one_of(0, (*_PR_NAME, _PR_SET_PDEATHSIG))), *_verdict()],
        "ioctl": [*_unless(_one_of(1, _FD_IOCTLS), errno.ENOTTY), *_verdict()],
        "fcntl": [*_unless(_one_of(1, _FCNTLS)), *_verdict()],
    }


def _own_checks(pid: int) -> dict[str, list[Instruction]]:
    """Return the further checks in a child."""
    return {
        "clone": _clones(),
        # Never SIGKILL: a process that dies of it counts as killed from outside, and runs again.
        "kill": [*_unless(_one_of(0, [pid])), *_unless(_none_of(1, [_SIGKILL])), *_verdict()],
        "tgkill": [*_unless(_one_of(0, [pid])), *_unless(_none_of(2, [_SIGKILL])), *_verdict()],
        # Hard limits hold by themselves; see `_no_cpu_limit`.
        "setrlimit": _no_cpu_limit(0),
        "prlimit64": [*_unless(_one_of(0, [0])), *_no_cpu_limit(1, new=2)],
        "prctl": [*_unless(_one_of(0, _PR_NAME)), *_verdict()],
    }


def _argument(index: int, *, high: bool = False) -> Instruction:
    return LOAD, 0, 0, 16 + 8 * index + 4 * high


def _one_of(index: int, values: Iterable[int], *, high: bool = False) -> list[Instruction]:
    """Skip the next instruction if an argument is one of `values`."""
    values = list(values)
    tests = [(EQUAL, len(values) - place, 0, v) for place, v in enumerate(values[:-1])]
    return [_argument(index, high=high), *tests, (EQUAL, 1, 0, values[-1])]


def _none_of(index: int, values: Iterable[int]) -> list[Instruction]:
    """Skip the next instruction if an argument is none of `values`."""
    values = list(values)
    tests = [(EQUAL, len(values) - 1 - place, 0, v) for place, v in enumerate(values[:-1])]
    return [_argument(index), *tests, (EQUAL, 0, 1, values[-1])]


def _unless(test: list[Instruction], error: int = errno.EPERM) -> list[Instruction]:
    return [*test, (RETURN, 0, 0, refuse(error))]


def _verdict() -> list[Instruction]:
    return [(RETURN, 0, 0, ALLOW)]


def _no_cpu_limit(which: int, new: int | None = None) -> list[Instruction]:
    """Pretend to set a limit of processor time; allow all other limits.

    At a hard limit of its own choice the kernel would kill the program with SIGKILL, which looks
    like a kill from outside. `which` and `new` are the indices of the arguments with the limit's
    name and with the pointer to its new value.
    """
    written = [] if new is None else [_argument(new), (EQUAL, 0, 2, 0)]
    written += [] if new is None else [_argument(new, high=True), (EQUAL, 1, 0, 0)]
    return [
        _argument(which),
        (EQUAL, 0, len(written) + 1, resource.RLIMIT_CPU),
        *written,
        (RETURN, 0, 0, refuse(0)),
        (RETURN, 0, 0, ALLOW),
    ]


def _clones() -> list[Instruction]:
    """Allow threads of this process without new namespaces."""
    return [
        _argument(0),
        (ANY_BIT, 1, 0, _CLONE_THREAD),
        (RETURN, 0, 0, refuse(errno.EPERM)),
        (ANY_BIT, 0, 1, _CLONE_NEW),
        (RETURN, 0, 0, refuse(errno.EPERM)),
        (RETURN, 0, 0, ALLOW),
    ]


def _opens(flags: int) -> list[Instruction]:
    """Allow any file that Landlock allows; allow truncation only with opening for writing.

    Before ABI 3, Landlock allows O_RDONLY | O_TRUNC to truncate a readable file.
    """
    return [
        _argument(flags),
        (ANY_BIT, 0, 2, os.O_TRUNC),
        (ANY_BIT, 1, 0, os.O_WRONLY | os.O_RDWR),
        (RETURN, 0, 0, refuse(errno.EACCES)),
        (RETURN, 0, 0, ALLOW),
    ]
