"""The filters of system calls, interpreted here: what they say to each call, on both machines."""

import errno
import resource
import signal
import struct

import pytest

from grpo_envs.sandbox.seccomp import (
    ALLOW,
    AND,
    ANY_BIT,
    AT_LEAST,
    EQUAL,
    KILL,
    LOAD,
    RETURN,
    Instruction,
    assemble,
    inherited,
    own,
    refuse,
)
from grpo_envs.sandbox.syscalls import MACHINES, Machine

PID, OTHER = 4242, 1
EPERM, ENOSYS, EACCES, ENOTTY = map(refuse, (errno.EPERM, errno.ENOSYS, errno.EACCES, errno.ENOTTY))
FILTERS = {machine.name: (own(machine, PID), inherited(machine)) for machine in MACHINES.values()}
BOTH = pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda machine: machine.name)
HIGH = 1 << 40
THREAD, NEWUSER, NEWPID, NEWNET = 0x00010000, 0x10000000, 0x20000000, 0x40000000
PTHREAD = 0x003D0F00  # what the C library starts threads with

# Numbers of calls that are none of the tables' business.
REFUSED = {
    "x86_64": {
        **{"socket": 41, "connect": 42, "sendmsg": 46, "recvmsg": 47, "bind": 49, "listen": 50},
        **{"fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "ptrace": 101, "truncate": 76},
        **{"chmod": 90, "fchmod": 91, "chown": 92, "fchmodat": 268, "fchmodat2": 452, "mknod": 133},
        **{"rename": 82, "mkdir": 83, "unlink": 87, "unlinkat": 263, "link": 86, "symlink": 88},
        **{"utime": 132, "utimensat": 280, "setxattr": 188, "memfd_create": 319, "creat": 85},
        **{"io_uring_setup": 425, "io_uring_enter": 426, "userfaultfd": 323, "bpf": 321},
        **{"perf_event_open": 298, "process_vm_readv": 310, "process_vm_writev": 311, "tkill": 200},
        **{"pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424, "unshare": 272},
        **{"setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161},
        **{"keyctl": 250, "add_key": 248, "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240},
        **{"rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "seccomp": 317, "capset": 126},
        **{"setuid": 105, "setsid": 112, "setpgid": 109, "name_to_handle_at": 303},
        **{
            "open_by_handle_at": 304,
            "inotify_init1": 294,
            "fanotify_init": 300,
            "clock_settime": 227,
        },
        **{"sched_setaffinity": 203, "setpriority": 141, "ioprio_set": 251, "personality": 135},
        **{
            "move_mount": 429,
            "open_tree": 428,
            "fsopen": 430,
            "init_module": 175,
            "kexec_load": 246,
        },
        **{"landlock_restrict_self": 446, "process_madvise": 440, "modify_ldt": 154},
    },
    "aarch64": {
        **{"socket": 198, "connect": 203, "sendmsg": 211, "recvmsg": 212, "bind": 200},
        **{"execve": 221, "execveat": 281, "ptrace": 117, "fchmod": 52, "fchmodat": 53},
        **{"fchownat": 54, "unlinkat": 35, "renameat2": 276, "mkdirat": 34, "linkat": 37},
        **{"mknodat": 33, "truncate": 45, "utimensat": 88, "setxattr": 5, "memfd_create": 279},
        **{"io_uring_setup": 425, "userfaultfd": 282, "bpf": 280, "perf_event_open": 241},
        **{"process_vm_readv": 270, "tkill": 130, "pidfd_open": 434, "unshare": 97, "setns": 268},
        **{"mount": 40, "chroot": 51, "keyctl": 219, "shmget": 194, "msgget": 186, "mq_open": 180},
        **{"rt_sigqueueinfo": 138, "seccomp": 277, "capset": 91, "setuid": 146, "setsid": 157},
        **{"open_by_handle_at": 265, "inotify_init1": 26, "landlock_restrict_self": 446},
        **{"sched_setaffinity": 122, "personality": 92, "setpriority": 140, "clock_settime": 112},
    },
}

# Checked calls: name, arguments, verdict.
CHECKED: list[tuple[str, tuple[int, ...], int]] = [
    ("clone", (PTHREAD,), ALLOW),
    ("clone", (int(signal.SIGCHLD),), EPERM),
    ("clone", (0x4111,), EPERM),  # vfork
    ("clone", (PTHREAD & ~THREAD,), EPERM),
    ("clone", (PTHREAD | NEWUSER,), EPERM),
    ("clone", (PTHREAD | NEWPID,), EPERM),
    ("clone", (PTHREAD | NEWNET,), EPERM),
    ("clone", (PTHREAD | 0x00020000,), EPERM),  # CLONE_NEWNS
    ("clone", (HIGH * THREAD | 17,), EPERM),
    ("clone3", (0, 88), ENOSYS),
    ("openat2", (0, 0, 0), ENOSYS),
    ("mbind", (0,), ENOSYS),
    ("openat", (0, 0, 0), ALLOW),
    ("openat", (0, 0, 0o1000), EACCES),
    ("openat", (0, 0, 0o1001), ALLOW),
    ("openat", (0, 0, 0o1002), ALLOW),
    ("open", (0, 0o1000), EACCES),
    ("open", (0, 0o101), ALLOW),
    ("kill", (PID, 15), ALLOW),
    ("kill", (PID, 9), EPERM),
    ("kill", (PID, HIGH + 9), EPERM),  # the kernel looks at the low half
    ("kill", (OTHER, 15), EPERM),
    ("kill", (OTHER, 0), EPERM),
    ("kill", (0, 15), EPERM),
    ("kill", (2**64 - 1, 15), EPERM),
    ("kill", (2**64 - PID, 15), EPERM),
    ("tgkill", (PID, PID, 15), ALLOW),
    ("tgkill", (PID, PID, 9), EPERM),
    ("tgkill", (OTHER, PID, 15), EPERM),
    ("prlimit64", (0, 7, 0, 1), ALLOW),
    ("prlimit64", (OTHER, 7, 0, 1), EPERM),
    ("prlimit64", (OTHER, resource.RLIMIT_CPU, 4096, 0), EPERM),
    ("prlimit64", (0, resource.RLIMIT_CPU, 4096, 0), refuse(0)),  # seems to be done
    ("socketpair", (1, 1, 0, 0), ALLOW),
    ("socketpair", (2, 1, 0, 0), EPERM),
    ("socketpair", (16, 3, 0, 0), EPERM),
    ("sendto", (3, 0, 1, 0, 0, 0), ALLOW),
    ("sendto", (3, 0, 1, 0, 4096, 110), EPERM),
    ("sendto", (3, 0, 1, 0, HIGH, 110), EPERM),
    ("prctl", (15,), ALLOW),
    ("prctl", (16,), ALLOW),
    ("prctl", (0x53564D41,), ALLOW),
    ("prctl", (4, 1), EPERM),
    ("prctl", (1, 0), EPERM),
    ("prctl", (22, 0), EPERM),
    ("prctl", (36, 1), EPERM),
    ("prctl", (0x59616D61, 1), EPERM),
    ("ioctl", (0, 0x5421), ALLOW),
    ("ioctl", (0, 0x5451), ALLOW),
    ("ioctl", (0, 0x541B), ALLOW),
    ("ioctl", (0, 0x5401), ENOTTY),
    ("ioctl", (0, 0x5412), ENOTTY),  # TIOCSTI
    ("fcntl", (0, 3), ALLOW),
    ("fcntl", (0, 1030), ALLOW),
    ("fcntl", (0, 8), EPERM),  # F_SETOWN
    ("fcntl", (0, 10), EPERM),  # F_SETSIG
    ("fcntl", (0, 15), EPERM),
    ("fcntl", (0, 1024), EPERM),  # F_SETLEASE
    ("fcntl", (0, 1026), EPERM),  # F_NOTIFY
    ("fcntl", (0, 1033), EPERM),  # F_ADD_SEALS
]


def interpret(instructions: list[Instruction], data: bytes) -> int:
    """Run a classic BPF program as the kernel does."""
    place, accumulator = 0, 0
    while True:
        operation, if_true, if_false, constant = instructions[place]
        place += 1
        if operation == RETURN:
            return constant
        if operation == LOAD:
            assert constant % 4 == 0
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif operation == AND:
            accumulator &= constant
        else:
            tests = {
                EQUAL: accumulator == constant,
                AT_LEAST: accumulator >= constant,
                ANY_BIT: bool(accumulator & constant),
            }
            place += if_true if tests[operation] else if_false


def verdict(machine: Machine, number: int, *arguments: int, audit: int | None = None) -> int:
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    audit = machine.audit if audit is None else audit
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, audit, 0, *padded)
    return strictest(*(interpret(listed, data) for listed in FILTERS[machine.name]))


def strictest(*verdicts: int) -> int:
    """Choose as the kernel does: the first action in this order, of equal ones the newest."""
    actions = [KILL, EPERM & 0xFFFF0000, ALLOW]
    return min(verdicts, key=lambda verdict: actions.index(verdict & 0xFFFF0000))


def zygotes(machine: Machine, number: int, *arguments: int) -> int:
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    return interpret(inherited(machine), struct.pack("<IIQ6Q", number, machine.audit, 0, *padded))


@BOTH
def test_plain_calls_are_allowed_whatever_they_ask(machine: Machine) -> None:
    assert len(machine.plain) > 75
    for number in machine.plain.values():
        assert verdict(machine, number, *(2**64 - 1,) * 6) == ALLOW


@BOTH
@pytest.mark.parametrize(("name", "arguments", "expected"), CHECKED)
def test_checked_calls(
    machine: Machine, name: str, arguments: tuple[int, ...], expected: int
) -> None:
    if name not in machine.checked:
        assert machine.name == "aarch64"
        assert name == "open"
        return
    assert verdict(machine, machine.checked[name], *arguments) == expected


@BOTH
def test_dangerous_calls_fail(machine: Machine) -> None:
    for name, number in REFUSED[machine.name].items():
        assert verdict(machine, number, *(0,) * 6) == EPERM, name


@BOTH
def test_nothing_else_is_allowed(machine: Machine) -> None:
    known = {*machine.plain.values(), *machine.checked.values()}
    for number in set(range(1000)) - known:
        assert verdict(machine, number, PID) == EPERM
    assert not set(REFUSED[machine.name].values()) & known


@BOTH
def test_the_zygote_may_fork_and_tell_but_no_child_may(machine: Machine) -> None:
    calls: list[tuple[int, tuple[int, ...]]] = [(n, (0,)) for n in machine.forking.values()]
    calls += [(machine.checked["clone"], (int(signal.SIGCHLD),))]
    calls += [(machine.checked["kill"], (OTHER, 9)), (machine.checked["prctl"], (1, 9))]
    for number, arguments in calls:
        assert zygotes(machine, number, *arguments) == ALLOW
        assert verdict(machine, number, *arguments) == EPERM
    limited = machine.checked["prlimit64"], 0, resource.RLIMIT_CPU, 4096
    assert zygotes(machine, *limited) == ALLOW
    assert verdict(machine, *limited) == refuse(0)  # seems to be done


@BOTH
def test_what_only_the_zygote_may_do_is_listed(machine: Machine) -> None:
    assert set(machine.forking) >= {"sendmsg", "recvmsg", "pidfd_open", "seccomp"}
    known = {*machine.plain.values(), *machine.checked.values(), *machine.forking.values()}
    for number in set(range(1000)) - known:
        assert zygotes(machine, number, PID) == EPERM


@BOTH
def test_another_architecture_is_killed(machine: Machine) -> None:
    others = {other.audit for other in MACHINES.values()} - {machine.audit}
    for audit in (*others, 0x40000003, 0):  # i386
        assert verdict(machine, machine.plain["read"], audit=audit) == KILL


def test_x32_is_killed_where_there_is_such_a_thing() -> None:
    x86, arm = MACHINES["x86_64"], MACHINES["aarch64"]
    for number in (0x40000000, 0x40000000 + 39, 0x40000000 + 520, -1):
        assert verdict(x86, number) == KILL
    assert verdict(arm, 0x40000000) == EPERM


def test_tables_differ_as_the_architectures_do() -> None:
    x86, arm = MACHINES["x86_64"], MACHINES["aarch64"]
    assert set(arm.plain) < set(x86.plain)
    legacy = {"stat", "lstat", "poll", "select", "access", "pipe", "dup2", "pause", "getpgrp"}
    assert legacy | {"alarm", "getdents", "readlink", "time"} < set(x86.plain) - set(arm.plain)
    for machine in (x86, arm):
        tables = machine.plain, machine.checked, machine.forking, machine.own
        names = {name: number for table in tables for name, number in table.items()}
        assert len(names) == len(set(names.values()))
        assert not machine.forking.keys() & (machine.plain | machine.checked).keys()


@BOTH
@pytest.mark.parametrize("small", [True, False], ids=["own", "inherited"])
def test_it_fits_the_kernel(machine: Machine, small: bool) -> None:
    listed = own(machine, PID) if small else inherited(machine)
    assert len(listed) < (100 if small else 4096)  # the small one is compiled for each child
    assert len(assemble(listed)) == 8 * len(listed)
    for place, (operation, if_true, if_false, _) in enumerate(listed):
        assert operation in (LOAD, RETURN) or place + max(if_true, if_false) + 1 < len(listed)
        assert max(if_true, if_false) < 256
    assert listed[-1][0] == RETURN
