"""The program that keeps one worker: `keeper.py <socket> <zygote commands as JSON>`.

It stands between the trainer and the children: it hands out descriptors, reads outputs up to their
caps, looks at the clock and reports. A stalled trainer thus changes no result. The children are
the zygote's, a process that never sees what passes here.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any


def main() -> None:
    """Start the first zygote, then serve requests until the trainer closes its end."""
    number, commands = sys.argv[1:]
    trainer = socket.socket(fileno=int(number))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    from grpo_envs.sandbox import requests, wire

    keeper = Keeper(trainer, json.loads(commands))
    try:
        keeper.place(full=False)
    except Exception as error:  # noqa: BLE001  whatever it is, the trainer must be told
        wire.send_message(trainer, {"failed": f"{error}"[:300]})
        os._exit(1)
    wire.send_message(trainer, {"failed": ""})
    while True:
        try:
            header, blobs = wire.receive_message(trainer)
            reply, out = requests.serve(header, blobs, keeper.place)
            wire.send_message(trainer, reply, *out)
        except (EOFError, OSError):  # the trainer or a zygote is gone
            keeper.end()


class Keeper:
    """The zygotes of a worker: where there are two, the full one is started when first needed."""

    def __init__(self, trainer: socket.socket, commands: list[list[str]]) -> None:
        """Start nothing yet."""
        self.trainer = trainer
        self.commands = commands
        self.processes: list[subprocess.Popen[bytes]] = []
        self.places: list[Any] = []

    def place(self, *, full: bool) -> Any:
        """Return where to run a program, as a `session.Place`.

        Raises:
            Broken: the zygote does not start.
        """
        number = min(int(full), len(self.commands) - 1)
        while number >= len(self.places):
            self._start(self.commands[len(self.places)])
        return self.places[number]

    def end(self) -> None:
        """End everything, and this process."""
        for process in self.processes:
            process.kill()
            process.wait()
        os._exit(0)

    def _start(self, command: list[str]) -> None:
        from grpo_envs.sandbox import session, wire

        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [str(theirs.fileno()) if word == "{socket}" else word for word in command],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        theirs.close()
        ours.settimeout(60)
        try:
            _, handles = wire.Notice.receive(ours)
        except (EOFError, OSError):
            process.kill()
            _, told = process.communicate(timeout=5)
            lines = told.decode(errors="replace").strip().splitlines() or ["it ended"]
            raise session.Broken(lines[-1]) from None
        ours.settimeout(None)
        place = session.Place(
            trainer=self.trainer,
            zygote=ours,
            base=session.address_space(handles),
            light=len(self.processes) < len(self.commands),
        )
        self.places.append(place)


if __name__ == "__main__":
    main()
