"""A process group of a run and the workers of one server, over which weights are broadcast.

Both ends use this module. vLLM's workers find it by PYTHONPATH, because their interpreter does not
have this project: it imports torch alone. `torch.distributed`'s default group belongs to the
trainer, so `init_process_group` is never called. No step waits without a time limit.
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
"""Bytes of a broadcast, at most; but a larger weight has one of its own."""
JOIN = 30.0
"""Seconds in which all members must have joined."""
_LEAVE = 2.0
"""Seconds that the end of a backend is awaited."""
_ALIGNED = 16
"""Bytes that the place of a weight in a bucket is a multiple of: of the size of every dtype."""
_LOOK = 0.001
"""Seconds between two looks whether something has ended."""
_C10D: Any = distributed
"""Its types leave out most of what is used here."""
_ENDED = timedelta(seconds=1)
"""Of a wait for what has ended: without a limit, NCCL would not raise what has failed."""
_DISCARD = 9
"""A port of the address that is asked for the way to it: nothing is sent there."""
_ERRORS, _SETTING = "TORCH_NCCL_ASYNC_ERROR_HANDLING", threading.Lock()
"""What a backend reads while it is made; "3" is torch's own choice."""


class GroupLost(Exception):
    """A member has died, does not answer in time, or never joined."""


class Slot(NamedTuple):
    """The place of a weight in a bucket."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Bytes."""

    @property
    def end(self) -> int:
        """Return the byte behind its last one."""
        return self.start + self.dtype.itemsize * torch.Size(self.shape).numel()

    def of(self, bucket: Tensor) -> Tensor:
        """Return the weight in a bucket (bytes), without copying it."""
        return bucket[self.start : self.end].view(self.dtype).view(self.shape)


def described(weights: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Return what a server is told of weights before they are sent, in their order."""
    return {
        "names": list(weights),
        "dtypes": [str(weight.dtype).removeprefix("torch.") for weight in weights.values()],
        "shapes": [list(weight.shape) for weight in weights.values()],
    }


def buckets(told: Mapping[str, Sequence[Any]], most: int) -> Iterator[list[Slot]]:
    """Yield the weights of each broadcast; both ends divide them in the same way.

    Args:
        told: What `described` returned.
        most: Bytes of a broadcast.
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
    """Where the members of a group meet, and what they agree on."""

    name: str
    """Of the group."""
    address: str
    """Of the run, on the way to the server."""
    port: int
    size: int
    """Members: the run, which is the first, and the server's workers."""
    backend: str
    """nccl or gloo."""
    timeout: float
    """Seconds of a broadcast, at most."""
    bucket: int = BUCKET
    """Bytes of a broadcast, see `BUCKET`."""


def opened(address: str) -> Any:
    """Return the store by which members find each other, at a free port of an address."""
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
    """One end of a process group."""

    def __init__(
        self,
        meeting: Meeting,
        rank: int,
        device: torch.device,
        *,
        store: Any = None,
        ended: Callable[[], bool] = lambda: False,
    ) -> None:
        """Join it; returns once all members have, and have exchanged a byte.

        Args:
            meeting: Where.
            rank: Of this process; 0 is the run.
            device: Where it computes; with gloo, buckets are on the CPU.
            store: What `opened` returned, in the run.
            ended: Says that the others have given up.

        Raises:
            GroupLost: a member does not come.
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
        """Return the backend; NCCL makes its communicator with the first broadcast."""
        make = _nccl if self.meeting.backend == "nccl" else _gloo
        backend = make(self._store, self._rank, self.meeting)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # of this thread
        byte = torch.ones(1, dtype=torch.uint8, device=self.device)
        _begun(backend, byte).wait(timedelta(seconds=JOIN))
        return backend

    def bucket(self, slots: Sequence[Slot]) -> Tensor:
        """Return a new bucket (bytes) for some weights, on the device that sends or receives."""
        return torch.empty(slots[-1].end, dtype=torch.uint8, device=self.device)

    def broadcast(self, bucket: Tensor, ended: Callable[[], bool] = lambda: False) -> None:
        """Send a bucket from the run; the others receive it. Returns once it is there.

        Args:
            bucket: Bytes.
            ended: Says that the others have given up.

        Raises:
            GroupLost: it does not arrive. The group cannot be used any more.
        """
        try:
            work = _begun(self._backend, bucket)
            _until(work.is_completed, self.meeting.timeout, ended, "no broadcast")
            work.wait(_ENDED)
        except RuntimeError as error:
            raise GroupLost(_line(error)) from error

    def send(self, weights: Mapping[str, Tensor], ended: Callable[[], bool]) -> None:
        """Broadcast weights that the others have been told of (`described`), see `broadcast`."""
        for slots in buckets(described(weights), self.meeting.bucket):
            bucket = self.bucket(slots)
            for slot in slots:
                slot.of(bucket).copy_(weights[slot.name])
            self.broadcast(bucket, ended)

    def received(self, told: Mapping[str, Sequence[Any]]) -> Iterator[list[tuple[str, Tensor]]]:
        """Yield the weights that the run broadcasts, by name.

        Each bucket is new memory: vLLM keeps the weights until a layer is whole.
        """
        for slots in buckets(told, self.meeting.bucket):
            bucket = self.bucket(slots)
            self.broadcast(bucket)
            yield [(slot.name, slot.of(bucket)) for slot in slots]

    def close(self) -> None:
        """Leave the group, in a thread: the end of a backend that waits for a member takes long."""
        # The thread is awaited: a process that exits while it works is aborted.
        pending, self._backend = [self._backend], None
        (leaving := threading.Thread(target=_let_go, args=(pending,), daemon=True)).start()
        leaving.join(_LEAVE)


def _let_go(pending: list[Any]) -> None:
    with suppress(RuntimeError, AttributeError):  # None, where it was never made
        pending[0].abort()
    pending.clear()  # here it is destroyed


def _found(at: Meeting) -> Any:
    limit = timedelta(seconds=JOIN)
    return _C10D.TCPStore(at.address, at.port, wait_for_workers=False, timeout=limit)


def _gloo(store: Any, rank: int, meeting: Meeting) -> Any:
    """Return a backend that is connected through the address that the run is reached by."""
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
    """Return a backend whose errors are raised here: by default they end the whole process."""
    options = _C10D.ProcessGroupNCCL.Options()
    # `broadcast` gives up first: NCCL's own watchdog is the last to do so.
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
    """Return what a function returns, which may wait for others without a limit of its own.

    Raises:
        GroupLost: it takes too long, or raises.
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
    """Return what torch says of an error, without where in its source it was found."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    place, _, rest = said.partition("] ")
    return (rest if place.startswith("[/") else said).partition(". ")[0]
