"""The program that keeps one worker: `keeper.py <socket> <zygote commands as JSON>`.

The keeper is between the trainer and the children: it passes descriptors, reads outputs up to their
limits, watches the time and reports. A stalled trainer therefore changes no result. The children
belong to the zygote, a process that never sees the data that passes here.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any, NoReturn


def main() -> None:
    """Start the zygotes, then serve requests until the trainer closes its end."""
    number, commands = sys.argv[1:]
    trainer = socket.socket(fileno=int(number))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    from grpo_envs.sandbox import requests, wire

    zygotes: list[ProgramZygoteHandle] = []
    try:
        zygotes += [ProgramZygoteHandle(command) for command in json.loads(commands)]
        places = [zygote.place(trainer, light=zygote is not zygotes[-1]) for zygote in zygotes]
    except Exception as error:  # noqa: BLE001  reported to the trainer
        wire.send_message(trainer, {"failed": f"{error}"[:300]})
        end(zygotes)
    wire.send_message(trainer, {"failed": ""})
    while True:
        try:
            header, blobs = wire.receive_message(trainer)
            reply, out = requests.serve(header, blobs, places)
            wire.send_message(trainer, reply, *out)
        except (EOFError, OSError):  # the trainer or a zygote is gone
            end(zygotes)


def end(zygotes: "list[ProgramZygoteHandle]") -> NoReturn:
    """End all zygotes and this process."""
    for zygote in zygotes:
        zygote.process.kill()
        zygote.process.wait()
    os._exit(0)


class ProgramZygoteHandle:
    """A zygote's process and the keeper's end of its socket."""

    def __init__(self, command: list[str]) -> None:
        """Start the zygote, without waiting."""
        self.control, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [str(theirs.fileno()) if word == "{socket}" else word for word in command],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        theirs.close()

    def place(self, trainer: socket.socket, *, light: bool) -> Any:
        """Wait until the zygote is ready; return a `session.Place` to run programs in.

        Raises:
            ChildProcessError: the zygote does not start; the message says why.
        """
        from grpo_envs.sandbox import session, wire

        self.control.settimeout(60)
        try:
            _, handles = wire.Notice.receive(self.control)
        except (EOFError, OSError):
            self.process.kill()
            _, stderr = self.process.communicate(timeout=5)
            lines = stderr.decode(errors="replace").strip().splitlines() or ["it ended"]
            raise ChildProcessError(lines[-1]) from None
        self.control.settimeout(None)
        return session.Place(
            trainer=trainer,
            zygote=self.control,
            base=session.address_space(handles),
            light=light,
        )


if __name__ == "__main__":
    main()
