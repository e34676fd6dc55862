"""The trainer's side of a worker: it starts the keeper by exec, and sends requests."""

import json
import marshal
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from grpo_envs.errors import ConfigError, SandboxError
from grpo_envs.sandbox.preload import COMMON, RARE
from grpo_envs.sandbox.types import Limits
from grpo_envs.sandbox.wire import receive_message, send_message

_HERE = Path(__file__).parent
_HUNG = 60.0  # seconds without an answer, beyond the limits
_ENDING_S = 1.0  # until a keeper that was told to end is killed
# As isolated as -I, but with a fixed hash seed: results may depend on the order of a set.
_BOOT = (sys.executable, "-S", "-s", "-P", "-B", str(_HERE / "boot.py"))
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "MALLOC_ARENA_MAX": "1",  # else each thread reserves 64 MiB of a program's limit
    "LD_BIND_NOW": "1",  # else each child looks up the C functions that only children call
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_KEPT = ("LD_LIBRARY_PATH", "PYTHONHOME")  # the interpreter may not start without them
_UIDS = 0x77000000  # unused user ids, one per worker, so that its threads are counted separately


class WorkerDied(Exception):
    """The worker is gone or unusable; the request may run again on another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How the workers of a pool start."""

    level: str
    wrapper: tuple[str, ...] = ()
    """A command that runs the zygote in its own namespaces."""
    preload: tuple[str, ...] = ()

    @property
    def light(self) -> bool:
        """Whether workers have a zygote without `preload` for programs that do not name it."""
        return bool(self.preload) and self.confined

    @property
    def confined(self) -> bool:
        """Whether programs are confined, not only limited."""
        return self.level in ("bubblewrap", "confined")


class Worker:
    """A keeper, its zygote, and the socket to them."""

    def __init__(self, setting: Setting, opening: set[socket.socket]) -> None:
        """Start the worker, without waiting.

        Args:
            setting: How it starts.
            opening: Gets our end of the socket at once, for a child that another thread forks.

        Raises:
            SandboxError: the system cannot start a process.
        """
        self.socket, theirs = socket.socketpair()
        opening.add(self.socket)
        commands = [_zygote_command(setting, light=light) for light in (True, False)]
        self.kinds = (False, True) if setting.light else (True,)
        """The values of `full` for the worker's zygotes."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        try:
            self.process = subprocess.Popen(
                [
                    *_BOOT,
                    str(_HERE / "keeper.py"),
                    str(theirs.fileno()),
                    json.dumps(commands[-len(self.kinds) :]),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=_ENVIRONMENT | kept,
                start_new_session=True,  # Ctrl-C in a terminal reaches only us
            )
        except OSError as error:
            opening.discard(self.socket)
            self.socket.close()
            raise SandboxError(f"the sandbox cannot start a process: {error}.") from error
        finally:
            theirs.close()
        self.answered = False

    def wait(self) -> None:
        """Wait until the worker is ready.

        Raises:
            WorkerDied: it does not start; the message says why.
        """
        if self.answered:
            return
        self.socket.settimeout(_HUNG)
        try:
            header, _ = receive_message(self.socket)
        except (EOFError, OSError) as error:
            raise WorkerDied(f"a worker does not start: {error!r}") from error
        if header["failed"]:
            raise WorkerDied(f"a worker does not start: {header['failed']}")
        self.answered = True

    def ask(
        self, limits: Limits, blobs: Sequence[bytes], *, judge: bool, full: bool
    ) -> tuple[dict[str, Any], Sequence[bytes]]:
        """Send a request and wait for its reply; `full` asks for the zygote with all packages.

        Raises:
            WorkerDied: the worker is gone or hangs, or a child was killed from outside.
        """
        patience = 2 * limits.wall_s + _HUNG  # it may run in both zygotes
        if self.socket.gettimeout() != patience:
            self.socket.settimeout(patience)
        try:
            header = {"judge": judge, "full": full, "limits": _as_dict(limits)}
            send_message(self.socket, header, *blobs)
            header, out = receive_message(self.socket)
        except (EOFError, OSError) as error:
            raise WorkerDied(f"a worker died ({error!r})") from error
        if header["failed"]:
            raise WorkerDied(header["failed"])
        return header, out

    def stop(self) -> None:
        """End the worker and all of its processes."""
        # The keeper notices this at any time, and so does a thread that waits for a reply. `close`
        # alone tells neither while such a thread waits.
        with suppress(OSError):  # macOS: the keeper is gone
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        try:
            self.process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def forget(self) -> None:
        """Drop the parent's worker; called in a forked child."""
        # The parent keeps its copy. An open copy here would hide the parent's end from the keeper.
        self.socket.close()
        self.process.returncode = 0  # not our child: no warning about a running process


def payload(**task: Any) -> bytes:
    """Return the data that a child reads, see `runner` and `judging`."""
    return marshal.dumps(task)


@lru_cache(maxsize=64)
def _as_dict(limits: Limits) -> dict[str, Any]:
    return asdict(limits)


def _zygote_command(setting: Setting, *, light: bool) -> list[str]:
    settings = {
        "folders": folders(setting.preload),
        "preload": COMMON if light else (*COMMON, *RARE, *setting.preload),
        "light": light,
        "confined": setting.confined,
        "counted": setting.level == "bubblewrap" and os.geteuid() != 0,
        "uid": _UIDS,
    }
    zygote = [*_BOOT, str(_HERE / "zygote.py"), "{socket}", json.dumps(settings)]
    return [*setting.wrapper, *zygote]


def folders(names: Sequence[str]) -> list[str]:
    """Return the folders of packages, without importing them.

    Raises:
        ConfigError: a package is not installed.
    """
    found = []
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ConfigError(f"preload={name}. Allowed: packages that are installed.")
        depth = 2 if spec.submodule_search_locations else 1
        found.append(str(Path(spec.origin).parents[depth - 1]))
    return list(dict.fromkeys(found))
