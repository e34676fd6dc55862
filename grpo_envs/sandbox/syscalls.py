"""Numbers of the system calls in the filter, by architecture.

The first column is x86_64, the second aarch64; `-` if the call does not exist there.

Source: the kernel's
`arch/x86/entry/syscalls/syscall_64.tbl` and `include/uapi/asm-generic/unistd.h`.
"""

from typing import NamedTuple

_PLAIN = """
read 0 63; write 1 64; close 3 57; stat 4 -; fstat 5 80; lstat 6 -; newfstatat 262 79
statx 332 291; poll 7 -; ppoll 271 73; select 23 -; pselect6 270 72; lseek 8 62; mmap 9 222
mprotect 10 226; munmap 11 215; mremap 25 216; brk 12 214; madvise 28 233; mincore 27 232
msync 26 227; rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigreturn 15 139
rt_sigpending 127 136; rt_sigtimedwait 128 137; rt_sigsuspend 130 133; sigaltstack 131 132
pread64 17 67; pwrite64 18 68; readv 19 65; writev 20 66; preadv 295 69; pwritev 296 70
access 21 -; faccessat 269 48; faccessat2 439 439; pipe 22 -; pipe2 293 59; dup 32 23
dup2 33 -; dup3 292 24; close_range 436 436; sched_yield 24 124; sched_getaffinity 204 123
pause 34 -; nanosleep 35 101; clock_nanosleep 230 115; clock_gettime 228 113
clock_getres 229 114; gettimeofday 96 169; time 201 -; getitimer 36 102; setitimer 38 103
alarm 37 -; times 100 153; getrusage 98 165; getrlimit 97 163
sysinfo 99 179; uname 63 160; getpid 39 172; getppid 110 173; gettid 186 178; getpgrp 111 -
getpgid 121 155; getsid 124 156; getuid 102 174; geteuid 107 175; getgid 104 176
getegid 108 177; getgroups 115 158; getresuid 118 148; getresgid 120 150; recvfrom 45 207
shutdown 48 210; getsockname 51 204; getpeername 52 205; getsockopt 55 209; flock 73 32
fsync 74 82; fdatasync 75 83; ftruncate 77 46; fadvise64 221 223; getdents 78 -
getdents64 217 61; getcwd 79 17; chdir 80 49; fchdir 81 50; umask 95 166; readlink 89 -
readlinkat 267 78; statfs 137 43; fstatfs 138 44; futex 202 98; futex_waitv 449 449
set_robust_list 273 99; get_robust_list 274 100; set_tid_address 218 96; rseq 334 293
membarrier 324 283; getcpu 309 168; getrandom 318 278; epoll_create 213 -
epoll_create1 291 20; epoll_ctl 233 21; epoll_wait 232 -; epoll_pwait 281 22
epoll_pwait2 441 441; eventfd2 290 19; wait4 61 260; restart_syscall 219 128; exit 60 93
exit_group 231 94
"""
_CHECKED = """
open 2 -; openat 257 56; clone 56 220; kill 62 129; tgkill 234 131; prlimit64 302 261
setrlimit 160 164; socketpair 53 199; sendto 44 206; prctl 157 167; ioctl 16 29; fcntl 72 25
mbind 237 235; clone3 435 435; openat2 437 437
"""
_FORKING = """
fork 57 -; sendmsg 46 211; recvmsg 47 212; pidfd_open 434 434; seccomp 317 277
"""
_OWN = """
seccomp 317 277; landlock_create_ruleset 444 444; landlock_add_rule 445 445
landlock_restrict_self 446 446; capset 126 91; capget 125 90
"""


class Machine(NamedTuple):
    """An architecture, with the kernel's numbers of its system calls."""

    name: str
    """The name in `platform.machine()`."""
    audit: int
    """AUDIT_ARCH_..., the architecture's constant in the filter."""
    plain: dict[str, int]
    """Allowed with any arguments: they change nothing outside the process. Landlock restricts the
    files that are opened."""
    checked: dict[str, int]
    """Allowed depending on their arguments, see `seccomp`. All other calls fail with EPERM."""
    forking: dict[str, int]
    """Calls that the zygote needs to fork children and report about them; refused in children."""
    own: dict[str, int]
    """Calls that this package makes itself."""
    x32: bool = False
    """Whether a second table starts at bit 30."""


def _column(rows: str, column: int) -> dict[str, int]:
    words = (entry.split() for entry in rows.replace("\n", ";").split(";") if entry.strip())
    return {word[0]: int(word[column]) for word in words if word[column] != "-"}


def _machine(name: str, audit: int, column: int, x32: bool) -> Machine:
    return Machine(
        name=name,
        audit=audit,
        plain=_column(_PLAIN, column),
        checked=_column(_CHECKED, column),
        forking=_column(_FORKING, column),
        own=_column(_OWN, column),
        x32=x32,
    )


MACHINES = {
    "x86_64": _machine("x86_64", 0xC000003E, 1, x32=True),
    "aarch64": _machine("aarch64", 0xC00000B7, 2, x32=False),
}
