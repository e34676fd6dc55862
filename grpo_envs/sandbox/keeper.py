"""The program that keeps one worker: `keeper.py <socket> <zygote command as JSON>`.

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


def main() -> None:
    """Start the zygote, then serve requests until the trainer closes its end."""
    number, command = sys.argv[1:]
    trainer = socket.socket(fileno=int(number))
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    from grpo_envs.sandbox import requests, session, wire

    try:
        process, zygote, base = _start(json.loads(command))
    except Exception as error:  # noqa: BLE001  whatever it is, the trainer must be told
        wire.send_message(trainer, {"failed": f"{error}"[:300]})
        os._exit(1)
    wire.send_message(trainer, {"failed": ""})
    place = session.Place(trainer=trainer, zygote=zygote, base=base)
    while True:
        try:
            header, blobs = wire.receive_message(trainer)
            reply, out = requests.serve(header, blobs, place)
            wire.send_message(trainer, reply, *out)
        except (EOFError, OSError):  # the trainer or the zygote is gone
            process.kill()
            process.wait()
            os._exit(0)


def _start(command: list[str]) -> tuple[subprocess.Popen[bytes], socket.socket, int]:
    """Start the zygote; return it, the socket to it, and the bytes of its address space."""
    from grpo_envs.sandbox import session, wire

    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [str(theirs.fileno()) if word == "{socket}" else word for word in command],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    theirs.close()
    ours.settimeout(60)
    try:
        _, handles = wire.Notice.receive(ours)
    except (EOFError, OSError):
        process.kill()
        _, told = process.communicate(timeout=5)
        lines = told.decode(errors="replace").strip().splitlines() or ["it ended"]
        raise ChildProcessError(lines[-1]) from None
    ours.settimeout(None)
    return process, ours, session.address_space(handles)


if __name__ == "__main__":
    main()
