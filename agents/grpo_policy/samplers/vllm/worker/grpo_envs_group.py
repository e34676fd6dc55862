"""The process group of a run and the workers of one server; the run broadcasts its weights in it.

Both ends use this module. It imports nothing but torch: vLLM's workers find it by PYTHONPATH, and
their interpreter does not have this project. It never calls `init_process_group`, because
`torch.distributed`'s default group belongs to the trainer. Every wait has a time limit.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

BUCKET = 128 * 2**20
"""The most bytes of one broadcast; a weight that is larger has a broadcast of its own."""
JOIN = 30.0
"""Seconds that all members have to join."""
_LEAVE = 2.0
"""Seconds that `Group.close` waits for the backend to end."""
_ALIGNED = 16
"""Each weight starts at a multiple of so many bytes, a multiple of every dtype's size."""
_LOOK = 0.001
"""Seconds between two checks of a condition that a thread waits for."""
_C10D: Any = distributed
"""`torch.distributed` without types: its stubs lack most functions that this module uses."""
_ENDED = timedelta(seconds=1)
"""Time limit for work that has ended: without one, NCCL's `wait` does not raise its error."""
_DISCARD = 9
"""The port (discard, RFC 863) with which the own address is found; nothing is sent to it."""
_ERRORS, _SETTING = "TORCH_NCCL_ASYNC_ERROR_HANDLING", threading.Lock()
"""The variable that NCCL's constructor reads ("3" is torch's default), and a lock for changes."""


class GroupLost(Exception):
    """A member died, did not answer in time, or never joined."""


class Slot(NamedTuple):
    """The place of a weight in a bucket."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Its first byte."""

    @property
    def end(self) -> int:
        """Return the byte after its last one."""
        return self.start + self.dtype.itemsize * torch.Size(self.shape).numel()

    def of(self, bucket: Tensor) -> Tensor:
        """Return the weight (`shape`) as a view of a bucket, a 1-D tensor of bytes."""
        return bucket[self.start : self.end].view(self.dtype).view(self.shape)


def described(weights: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Return names, dtypes and shapes of weights, in their order: a server needs them first."""
    return {
        "names": list(weights),
        "dtypes": [str(weight.dtype).removeprefix("torch.") for weight in weights.values()],
        "shapes": [list(weight.shape) for weight in weights.values()],
    }


def buckets(told: Mapping[str, Sequence[Any]], most: int) -> Iterator[list[Slot]]:
    """Yield the places of the weights of each broadcast; they are the same at both ends.

    Args:
        told: The result of `described`.
        most: The most bytes of a broadcast.
    """
    bucket: list[Slot] = []
    for name, dtype, shape in zip(told["names"], told["dtypes"], told["shapes"], strict=True):
        behind = -(-bucket[-1].end // _ALIGNED) * _ALIGNED if bucket else 0
        slot = Slot(name, getattr(torch, dtype), tuple(shape), behind)
        if bucket and slot.end > most:
            yield bucket
            bucket, slot = [], slot._replace(start=0)
        bucket.append(slot)
    if bucket:
        yield bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """The address where the members of a group meet, and the settings that they share."""

    name: str
    """The group's name."""
    address: str
    """The run's address in the network of the server."""
    port: int
    size: int
    """The number of members: the run, which has rank 0, and the server's workers."""
    backend: str
    """nccl or gloo."""
    timeout: float
    """The longest time of a broadcast in seconds."""
    bucket: int = BUCKET
    """The most bytes of a broadcast, see `BUCKET`."""


def opened(address: str) -> Any:
    """Return the store through which members find each other, at a free port of an address."""
    family = socket.getaddrinfo(address, None)[0][0]
    listening = socket.create_server((address, 0), family=family)
    return _C10D.TCPStore(
        address,
        listening.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=JOIN),
        master_listen_fd=listening.detach(),
    )


class Group:
    """One member's end of a process group."""

    def __init__(
        self,
        meeting: Meeting,
        rank: int,
        device: torch.device,
        *,
        store: Any = None,
        ended: Callable[[], bool] = lambda: False,
    ) -> None:
        """Join the group; return when all members have joined and one byte was broadcast.

        Args:
            meeting: Address and settings.
            rank: This process's rank; the run has rank 0.
            device: The process's device. With gloo, buckets are on the CPU.
            store: The result of `opened` in the run; None in a worker.
            ended: Returns whether the other end has given up.

        Raises:
            GroupLost: a member did not join in time, or the other end has given up.
        """
        self.meeting, self._rank = meeting, rank
        self.device = device if meeting.backend == "nccl" else torch.device("cpu")
        self._backend: Any = None
        try:
            self._store = store or _found(meeting)
            self._store.set(f"here/{rank}", "1")
            here = [f"here/{member}" for member in range(meeting.size)]
            _until(lambda: self._store.check(here), JOIN, ended, "not all have joined")
            self._backend = _made(self._connected, ended)
        except RuntimeError as error:
            raise GroupLost(_line(error)) from error

    def _connected(self) -> Any:
        """Return a backend that has broadcast a byte: NCCL connects at the first broadcast."""
        make = _nccl if self.meeting.backend == "nccl" else _gloo
        backend = make(self._store, self._rank, self.meeting)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # each thread has its own current device
        byte = torch.ones(1, dtype=torch.uint8, device=self.device)
        _begun(backend, byte).wait(timedelta(seconds=JOIN))
        return backend

    def bucket(self, slots: Sequence[Slot]) -> Tensor:
        """Return a new bucket, a 1-D tensor of bytes, for the weights of one broadcast."""
        return torch.empty(slots[-1].end, dtype=torch.uint8, device=self.device)

    def broadcast(self, bucket: Tensor, ended: Callable[[], bool] = lambda: False) -> None:
        """Send a bucket from the run, or receive it in a worker; return when it has arrived.

        Args:
            bucket: 1-D tensor of bytes, of equal size at all members.
            ended: Returns whether the other end has given up.

        Raises:
            GroupLost: the bucket did not arrive in time. The group cannot be used again.
        """
        try:
            work = _begun(self._backend, bucket)
            _until(work.is_completed, self.meeting.timeout, ended, "no broadcast")
            work.wait(_ENDED)
        except RuntimeError as error:
            raise GroupLost(_line(error)) from error

    def send(self, weights: Mapping[str, Tensor], ended: Callable[[], bool]) -> None:
        """Broadcast weights whose description the workers have; arguments as in `broadcast`."""
        for slots in buckets(described(weights), self.meeting.bucket):
            bucket = self.bucket(slots)
            for slot in slots:
                slot.of(bucket).copy_(weights[slot.name])
            self.broadcast(bucket, ended)

    def received(self, told: Mapping[str, Sequence[Any]]) -> Iterator[list[tuple[str, Tensor]]]:
        """Yield the run's weights with their names, one list per broadcast.

        Each bucket is new memory, because vLLM keeps weights until a layer is complete.
        """
        for slots in buckets(told, self.meeting.bucket):
            bucket = self.bucket(slots)
            self.broadcast(bucket)
            yield [(slot.name, slot.of(bucket)) for slot in slots]

    def close(self) -> None:
        """Leave the group, in a thread: a backend that waits for a lost member ends slowly."""
        # Wait for the thread: a process that exits while the thread works is aborted.
        pending, self._backend = [self._backend], None
        (leaving := threading.Thread(target=_let_go, args=(pending,), daemon=True)).start()
        leaving.join(_LEAVE)


def _let_go(pending: list[Any]) -> None:
    with suppress(RuntimeError, AttributeError):  # the backend is None if it was never made
        pending[0].abort()
    pending.clear()  # the last reference: torch destroys the backend here


def _found(at: Meeting) -> Any:
    limit = timedelta(seconds=JOIN)
    return _C10D.TCPStore(at.address, at.port, wait_for_workers=False, timeout=limit)


def _gloo(store: Any, rank: int, meeting: Meeting) -> Any:
    """Return a gloo backend bound to this machine's address on the route to the run."""
    family = socket.getaddrinfo(meeting.address, None)[0][0]
    with socket.socket(family, socket.SOCK_DGRAM) as way:
        way.connect((meeting.address, _DISCARD))
        own = meeting.address if rank == 0 else way.getsockname()[0]
    gloo = _C10D.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=own)]
    options._timeout = timedelta(seconds=max(JOIN, meeting.timeout))
    options._threads = 1
    return gloo(store, rank, meeting.size, options)


def _nccl(store: Any, rank: int, meeting: Meeting) -> Any:
    """Return an NCCL backend that raises its errors; by default NCCL ends the whole process."""
    options = _C10D.ProcessGroupNCCL.Options()
    # The limit of NCCL's watchdog is longer, so that `Group.broadcast` gives up first.
    options._timeout = timedelta(seconds=2 * max(JOIN, meeting.timeout))
    with _SETTING:
        before = os.environ.pop(_ERRORS, "3")
        os.environ[_ERRORS] = "0"
        try:
            return _C10D.ProcessGroupNCCL(store, rank, meeting.size, options)
        finally:
            os.environ[_ERRORS] = before


def _begun(backend: Any, bucket: Tensor) -> Any:
    options = _C10D.BroadcastOptions()
    options.rootRank, options.rootTensor, options.asyncOp = 0, 0, True
    return backend.broadcast([bucket], options)


def _made(make: Callable[[], Any], ended: Callable[[], bool]) -> Any:
    """Return the result of a function that may wait for other members without a time limit.

    Raises:
        GroupLost: the function takes longer than `JOIN`, or raises.
    """
    made: list[Any] = []

    def run() -> None:
        try:
            made.append(make())
        except Exception as error:  # noqa: BLE001 - raised by the thread that waits for it
            made.append(error)

    threading.Thread(target=run, daemon=True).start()
    _until(lambda: bool(made), JOIN, ended, "no connection")
    if isinstance(made[0], Exception):
        raise GroupLost(_line(made[0])) from made[0]
    return made[0]


def _until(done: Callable[[], bool], seconds: float, ended: Callable[[], bool], what: str) -> None:
    begun = time.monotonic()
    while not done():
        if ended():
            raise GroupLost(f"{what}: the other end has given up")
        if time.monotonic() - begun > seconds:
            raise GroupLost(f"{what} in {seconds:g} s")
        time.sleep(_LOOK)


def _line(error: Exception) -> str:
    """Return the first sentence of torch's message, without the position in torch's source."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    place, _, rest = said.partition("] ")
    return (rest if place.startswith("[/") else said).partition(". ")[0]
