"""Two Ray nodes on this machine, in a process of their own: `Nodes` is what tests hold of it.

As a program it starts them, says the address of their client server, and does what the lines of
its standard input say: `lose` the second node, `add` another one, end at the end of the input.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

ENVIRONMENT = {
    "GRPC_ENABLE_FORK_SUPPORT": "0",  # else the client server cannot start what serves a client
    "PYTHONPATH": str(ROOT),  # nodes find the environments of tests
    "RAY_USAGE_STATS_ENABLED": "0",
}

_STARTS = 3
"""Ray gives a node 30 s to start, which is not enough on a machine that is busy."""


class Nodes:
    """The head node and a second one, with a CPU each."""

    def __init__(self) -> None:
        for _ in range(_STARTS):
            self._program = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env=os.environ | ENVIRONMENT,
            )
            if address := self._answer():
                break
            self.lose_all()
        assert address
        self.address = f"ray://{address}"

    def lose_one(self) -> None:
        """Kill the second node with all that runs there."""
        self._ask("lose")

    def add_one(self) -> None:
        self._ask("add")

    def lose_all(self) -> None:
        """End it all."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.close()
        self._program.wait(timeout=60)
        self._program.stdout.close()

    def _ask(self, what: str) -> None:
        assert self._program.stdin is not None
        self._program.stdin.write(what + "\n")
        self._program.stdin.flush()
        assert self._answer() == what

    def _answer(self) -> str:
        assert self._program.stdout is not None
        return self._program.stdout.readline().strip()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> None:
    from ray.cluster_utils import Cluster

    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints, too
    port = _free_port()
    head: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head | {"ray_client_server_port": port})
    second = cluster.add_node(num_cpus=1)
    print(f"127.0.0.1:{port}", file=said, flush=True)
    for line in sys.stdin:
        if line.strip() == "lose":
            cluster.remove_node(second, allow_graceful=False)
        else:
            second = cluster.add_node(num_cpus=1)
        print(line.strip(), file=said, flush=True)
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
