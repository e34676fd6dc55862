"""The processes of a run: one, or several that `accelerate launch` or `torchrun` started.

All processes compose the same configuration and see all groups of a step, so they make the same
decisions. Each samples and grades its share of the problems and computes its share of every update.
Only the first one writes.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from grpo_envs.errors import GrpoEnvsError
from grpo_envs.runtime import launch
from grpo_envs.runtime.stopping import StopNow
from grpo_envs.runtime.timing import Timer
from grpo_envs.types import Group

T = TypeVar("T")
_PATIENCE = timedelta(hours=2)
"""How long a process waits for the others, for example if one of them has the slow problems."""
_BACKENDS = ("gloo", "nccl")
"""Backends that PyTorch's errors name after a connection is lost."""


class ProcessLost(GrpoEnvsError):
    """Another process of the run failed, or no longer exists."""


class RolloutFn(Protocol):
    """Samples and scores a group for each problem seed."""

    def __call__(self, seeds: Sequence[int], timer: Timer) -> list[Group]:
        """Return the groups, in order."""


@dataclass(slots=True, eq=False)
class Processes:
    """This process among those of the run. Calls that exchange data must be made in all of them."""

    index: int = 0
    count: int = 1
    waited: float = 0.0
    """Seconds that this process waited for the others in the last exchange."""
    _channel: Any = field(default=None, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the first process, which writes."""
        return self.index == 0

    def gather(self, do: Callable[[], T]) -> list[T]:
        """Call `do` in every process; return the results of all, in order of the processes.

        An exception in one process is raised in all, so that none waits for ever.

        Raises:
            ProcessLost: `do` failed in another process with an unexpected exception, or that
                process was killed.
        """
        if self.count == 1:
            return [do()]
        value, raised = None, None
        try:
            value = do()
        except Exception as error:  # noqa: BLE001 - sent to the others, then raised
            raised = error
        outcomes = self._exchange((value, raised and self._for_others(raised)))
        if raised is not None:
            raise raised
        for _, foreign in outcomes:
            if foreign is not None:
                raise foreign
        return [value for value, _ in outcomes]

    def each(self, do: Callable[[], T]) -> T:
        """Call `do` in every process; return this process's result."""
        own: list[T] = []
        self.gather(lambda: own.append(do()))
        return own[0]

    def by_first(self, do: Callable[[], T]) -> T:
        """Call `do` in the first process only; return its result in all processes."""
        found: T = self.gather(lambda: do() if self.first else None)[0]  # type: ignore[assignment]
        return found

    def share(self, what: Sequence[T]) -> Sequence[T]:
        """Return this process's share; shares are in order, and their sizes differ by at most 1."""
        size, more = divmod(len(what), self.count)
        start = self.index * size + min(self.index, more)
        return what[start : start + size + (self.index < more)]

    def shared(self, rollout: RolloutFn) -> RolloutFn:
        """Return a rollout that shares the problems among the processes; all get all groups."""
        if self.count == 1:
            return rollout

        def play(seeds: Sequence[int], timer: Timer) -> list[Group]:
            own = self.share(seeds)
            shares = self.gather(lambda: rollout(own, timer) if own else [])
            timer.add("wait", self.waited)
            return [group for share in shares for group in share]

        return play

    def _for_others(self, error: Exception) -> Exception:
        """Return the exception that the other processes raise for an error of this one."""
        if isinstance(error, GrpoEnvsError | StopNow):
            return error
        return ProcessLost(f"process {self.index} failed: {type(error).__name__}: {error}")

    def _exchange(self, mine: Any) -> list[Any]:
        from torch import distributed  # heavy, and not needed by one process

        found: list[Any] = [None] * self.count
        start = time.perf_counter()
        with self.linked():
            distributed.all_gather_object(found, mine, group=self._channel)
        self.waited = time.perf_counter() - start
        return found

    @contextmanager
    def linked(self) -> Iterator[None]:
        """Turn the error of a lost connection, during an exchange, into one line.

        Raises:
            ProcessLost: another process failed or was killed.
        """
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not _is_of_a_backend(error):
                raise
            lost = "another process of the run has failed or was killed; resume=auto continues"
            raise ProcessLost(f"{lost} from the last checkpoint.") from error


def _is_of_a_backend(error: RuntimeError) -> bool:
    return any(word in str(error).lower() for word in _BACKENDS)


ALONE = Processes()
"""The only process of a run without a launcher."""


def connect(device: str) -> Processes:
    """Connect to the other processes of the run; without a launcher there are none.

    Args:
        device: `trainer.device`.

    Raises:
        ConfigError: an option of the launcher is not supported.
        ProcessLost: the processes cannot reach each other.
    """
    launch.require_known()
    if launch.count() == 1:
        return ALONE
    import torch  # heavy, and of no use to one process
    from accelerate import PartialState
    from torch import distributed

    try:
        # PartialState chooses the backend for tensors: NCCL on GPUs, gloo on CPUs.
        PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
        atexit.register(distributed.destroy_process_group)
        channel = distributed.new_group(backend="gloo", timeout=_PATIENCE)  # for Python objects
    except RuntimeError as error:
        if not _is_of_a_backend(error):
            raise
        raise ProcessLost(
            f"the processes of the run cannot connect ({str(error).splitlines()[0]}). "
            "If a machine's host name does not resolve to its address on the shared network, "
            "GLOO_SOCKET_IFNAME=eth0 (with GPUs also NCCL_SOCKET_IFNAME) selects the interface."
        ) from error
    return Processes(launch.index(), launch.count(), _channel=channel)
