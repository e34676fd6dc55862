"""Weights without files: the run broadcasts them to each server in a process group of the two.

NCCL carries them between GPUs, gloo between all else. What is broadcast is announced by HTTP, and
the answer says whether the server has taken it. A server that dies, hangs or is started anew costs
its group alone: the next push makes another one.
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
"""Seconds of a broadcast of one bucket, at most; less where `sampler.timeout` is less."""
_ASK = 20.0
"""Seconds in which a server must say which group it is in."""
_LAST_WORD = 2.0
"""Seconds in which a server may still say why it gave up."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """The weights of a version, in memory."""

    version: str
    weights: Mapping[str, Tensor]
    """By the names of a checkpoint."""
    broadcast: Broadcast

    def send(self, server: Server) -> None:
        """Broadcast them to a server, see `Snapshot`."""
        self.broadcast.send(server, self.weights)


class Broadcast:
    """The groups of a run, one with each server. Servers may be sent to at once."""

    name = "the weights"

    def __init__(self, name: str, device: torch.device) -> None:
        """Join no group yet.

        Args:
            name: Of the run: no other one has it.
            device: Where it computes.
        """
        self._name, self._device = name, device
        self._groups: dict[Server, Group] = {}
        self._numbers = count()

    def write(self, policy: Policy, version: str, dtype: str) -> Tensors:
        """Take the weights without copying them where `dtype` is theirs; see `Transport`."""
        return Tensors(version, checkpoint_weights(policy, dtype), self)

    def clear(self, *, adapters: bool) -> None:
        """Do nothing: nothing was written."""

    def close(self) -> None:
        """Leave all groups."""
        for server in list(self._groups):
            self._leave(server)

    def send(self, server: Server, weights: Mapping[str, Tensor]) -> None:
        """Broadcast weights to a server, in the group with it; a new one where it is in no other.

        Raises:
            ServerLost: it does not take them.
            Refused: it refuses them.
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
            self._leave(server)  # the server may be in the midst of it
            raise

    def _joined(self, server: Server) -> Group:
        """Return the group with a server that is in it, too."""
        about = server.post("/collective_rpc", {"method": "about_group"}, _ASK)["results"]
        group = self._groups.get(server)
        if group is not None and all(each["group"] == group.meeting.name for each in about):
            return group
        self._leave(server)
        try:
            store = opened(address := own_address(server))
        except (OSError, RuntimeError) as error:
            cause = str(error).partition("\n")[0]
            raise ServerLost(f"{server.url}: no group can meet at this machine: {cause}") from error
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
        """Leave the group with a server that was asked something; return why it is lost."""
        self._leave(server)
        try:
            said = answer.exception(_LAST_WORD)
        except NotYet:
            server.abort()  # it would be waited for, for as long as it may be silent
            said = None
        return said if isinstance(said, Exception) else ServerLost(f"{server.url}: {error}")

    def _leave(self, server: Server) -> None:
        if (group := self._groups.pop(server, None)) is not None:
            group.close()


def _asked(server: Server, route: str, body: Mapping[str, Any]) -> Future[Any]:
    """Return what a server will answer: it does so once the run has done its part."""
    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(server.post(route, body))
        except Exception as error:  # noqa: BLE001 - raised by the thread that waits for it
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    return answer


def _failed(answer: Future[Any]) -> Callable[[], bool]:
    return lambda: answer.done() and answer.exception() is not None


def _backend(device: torch.device, gpus: list[str]) -> str:
    """Return what carries weights from a device to the GPUs of a server's workers.

    NCCL connects different GPUs alone: not one with itself, where run and server share it.
    """
    if device.type != "cuda" or not all(gpus):
        return "gloo"
    return "gloo" if str(torch.cuda.get_device_properties(device).uuid) in gpus else "nccl"
