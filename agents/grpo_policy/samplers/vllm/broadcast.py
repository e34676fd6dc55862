"""The transport `broadcast`: weights go to each server through a process group, without files.

Each group has the run and the workers of one server. The backend is NCCL between different GPUs and
gloo otherwise. An HTTP request announces the names, dtypes and shapes of a broadcast; its answer
says whether the server loaded the weights. If a server dies, hangs or restarts, only its group is
lost, and the next push makes a new group.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import asdict, dataclass
from itertools import count
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from grpo_policy.policy import Policy
from grpo_policy.samplers.vllm.client import Server, ServerLost
from grpo_policy.samplers.vllm.push import own_address
from grpo_policy.samplers.vllm.worker.grpo_envs_group import (
    BUCKET,
    Group,
    GroupLost,
    Meeting,
    described,
    opened,
)
from grpo_policy.saving import checkpoint_weights

log = logging.getLogger(__name__)
_TIMEOUT = 60.0
"""The longest time of one bucket's broadcast in seconds; `sampler.timeout` may lower it."""
_ASK = 20.0
"""Seconds that a server has to answer which group it is in."""
_LAST_WORD = 2.0
"""Seconds that a failed server has to answer with its own error."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """The weights of one version of the policy, in memory."""

    version: str
    weights: Mapping[str, Tensor]
    """Tensors of any shape by their names in a checkpoint."""
    broadcast: Broadcast

    def send(self, server: Server) -> None:
        """Broadcast the weights to a server; see `Snapshot.send`."""
        self.broadcast.send(server, self.weights)


class Broadcast:
    """The process groups of a run, one per server. `send` is safe from one thread per server."""

    name = "the weights"

    def __init__(self, name: str, device: torch.device) -> None:
        """Begin without a group; `send` makes them.

        Args:
            name: A name that no other run has.
            device: The device that the policy computes on.
        """
        self._name, self._device = name, device
        self._groups: dict[Server, Group] = {}
        self._numbers = count()

    def write(self, policy: Policy, version: str, dtype: str) -> Tensors:
        """Return the weights in `dtype`, without a copy if they have it; see `Transport.write`."""
        return Tensors(version, checkpoint_weights(policy, dtype), self)

    def clear(self, *, adapters: bool) -> None:
        """Do nothing: nothing was written."""

    def close(self) -> None:
        """Leave all groups."""
        for server in list(self._groups):
            self._leave(server)

    def send(self, server: Server, weights: Mapping[str, Tensor]) -> None:
        """Broadcast weights to a server; make a new group if the server is not in the current one.

        Raises:
            ServerLost: the server does not answer in time, or its group cannot be made.
            Refused: the server answers that it does not accept the weights.
        """
        group = self._joined(server)
        answer = _asked(server, "/update_weights", {"update_info": described(weights)})
        try:
            group.send(weights, _failed(answer))
            answer.result(limit := group.meeting.timeout)
        except GroupLost as error:
            raise self._lost(server, answer, error) from error
        except NotYet as error:
            late = GroupLost(f"/update_weights: no answer in {limit:g} s")
            raise self._lost(server, answer, late) from error
        except Exception:
            self._leave(server)  # the server may have received only a part
            raise

    def _joined(self, server: Server) -> Group:
        """Return the group with a server; both ends are members."""
        about = server.post("/collective_rpc", {"method": "about_group"}, _ASK)["results"]
        group = self._groups.get(server)
        if group is not None and all(each["group"] == group.meeting.name for each in about):
            return group
        self._leave(server)
        try:
            store = opened(address := own_address(server))
        except (OSError, RuntimeError) as error:
            cause = str(error).partition("\n")[0]
            raise ServerLost(f"{server.url}: no port can be opened for a group: {cause}") from error
        meeting = Meeting(
            name=f"{self._name}-{next(self._numbers)}",
            address=address,
            port=store.port,
            size=1 + about[0]["workers"],
            backend=_backend(self._device, [each["gpu"] for each in about]),
            timeout=min(_TIMEOUT, server.timeout),
            bucket=BUCKET,
        )
        body = {"init_info": {"meeting": asdict(meeting)}}
        answer = _asked(server, "/init_weight_transfer_engine", body)
        try:
            group = Group(meeting, 0, self._device, store=store, ended=_failed(answer))
        except GroupLost as error:
            raise self._lost(server, answer, error) from error
        self._groups[server] = group
        answer.result()
        log.info("sampler: weights go to %s by %s", server.url, meeting.backend)
        return group

    def _lost(self, server: Server, answer: Future[Any], error: GroupLost) -> Exception:
        """Leave the group with a server; return the server's own error, or else `error`."""
        self._leave(server)
        try:
            said = answer.exception(_LAST_WORD)
        except NotYet:
            server.abort()  # else its thread would wait until `sampler.timeout`
            said = None
        return said if isinstance(said, Exception) else ServerLost(f"{server.url}: {error}")

    def _leave(self, server: Server) -> None:
        if (group := self._groups.pop(server, None)) is not None:
            group.close()


def _asked(server: Server, route: str, body: Mapping[str, Any]) -> Future[Any]:
    """Post a request from a thread, because the server answers after the run's part; no wait."""
    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(server.post(route, body))
        except Exception as error:  # noqa: BLE001 - raised by the thread that waits for it
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    return answer


def _failed(answer: Future[Any]) -> Callable[[], bool]:
    """Return a function that returns whether the server has answered with an error."""
    return lambda: answer.done() and answer.exception() is not None


def _backend(device: torch.device, gpus: list[str]) -> str:
    """Return the backend between the run's device and the GPUs of a server's workers.

    NCCL needs a different GPU for each member: if run and server share a GPU, it is gloo.

    Args:
        device: The run's.
        gpus: The UUID of each worker's GPU; an empty text for a worker on a CPU.
    """
    if device.type != "cuda" or not all(gpus):
        return "gloo"
    return "gloo" if str(torch.cuda.get_device_properties(device).uuid) in gpus else "nccl"
