"""This side of a worker: its keeper, started by exec, and one request at a time."""

import json
import marshal
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
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
_HUNG = 60.0  # seconds without a sign of life, beyond what the limits allow
# As isolated as -I, but with a fixed hash seed: a program's result may follow the order of a set.
_BOOT = (sys.executable, "-S", "-s", "-P", "-B", str(_HERE / "boot.py"))
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "MALLOC_ARENA_MAX": "1",  # else each thread reserves 64 MiB of what a program may have
    "LD_BIND_NOW": "1",  # else each child looks up the C functions that only children call
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_KEPT = ("LD_LIBRARY_PATH", "PYTHONHOME")  # where the interpreter itself would not start without
_UIDS = 0x77000000  # users that nobody is: one a worker, so that threads are counted for it alone


class WorkerDied(Exception):
    """The worker is gone or of no use; the request may run again on another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How the workers of a pool are started."""

    level: str
    wrapper: tuple[str, ...] = ()
    """A command that runs the zygote in namespaces of its own."""
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
        """Start it, without waiting.

        Args:
            setting: How.
            opening: Holds our end from the first moment, for a child that another thread forks.

        Raises:
            SandboxError: the system starts no process.
        """
        self.socket, theirs = socket.socketpair()
        opening.add(self.socket)
        commands = [_zygote_command(setting, light=light) for light in (True, False)]
        self.kinds = (False, True) if setting.light else (True,)
        """Whether `full`, for the zygotes there are."""
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
                start_new_session=True,  # Ctrl-C in a terminal is for us alone
            )
        except OSError as error:
            opening.discard(self.socket)
            self.socket.close()
            raise SandboxError(f"the sandbox cannot start a process: {error}.") from error
        finally:
            theirs.close()
        self.answered = False

    def wait(self) -> None:
        """Wait until it is ready.

        Raises:
            WorkerDied: it cannot be; the message says why.
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
        """Have a request done, by the zygote with all packages or by any.

        Raises:
            WorkerDied: it is gone, it hangs, or a child was killed from outside.
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
        """End it and everything in it."""
        self.socket.close()  # which it notices, at work or not
        try:
            self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def forget(self) -> None:
        """Drop what belongs to the parent: called in a forked child."""
        # Closed here it stays open in the parent; kept open here, nobody would notice its end.
        self.socket.close()
        self.process.returncode = 0  # not our child: no warning that it still runs


def payload(**task: Any) -> bytes:
    """Return what a child reads: see `runner` and `judging`."""
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
    """Return where packages are installed, without importing them.

    Raises:
        ConfigError: one is not installed.
    """
    found = []
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ConfigError(f"preload={name}. Allowed: packages that are installed.")
        depth = 2 if spec.submodule_search_locations else 1
        found.append(str(Path(spec.origin).parents[depth - 1]))
    return list(dict.fromkeys(found))
