"""The sampler `torch` in a process of its own: it samples while the policy is being updated."""

from __future__ import annotations

import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker, util
from multiprocessing.connection import Connection
from typing import Any

import torch

from grpo_envs.errors import ConfigError, GrpoEnvsError
from grpo_envs.runtime.processes import ProcessLost
from grpo_envs.types import Completion
from grpo_policy.policy import Policy
from grpo_policy.samplers.fixed import Fixing
from grpo_policy.samplers.protocol import Decoding
from grpo_policy.samplers.shared import Memory, Shared, opened
from grpo_policy.samplers.torch import TorchSampler

_LOOK = 0.05
"""Seconds between two calls of `tick` while nothing comes."""
_RELEASE = "release"
_PATIENCE = 5.0
"""Seconds that a process which has closed its end has to be gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the process needs to sample as the run itself would."""

    device: str
    dtype: torch.dtype | None
    batch_tokens: int | None
    fixing: Fixing | None
    threads: int
    products: str
    """PyTorch's precision of float32 products."""


class SamplerProcess:
    """Samples in a process that has weights of its own: those of the last `sync`.

    It samples what `TorchSampler` does, to the bit. One call of `sample` at a time, and no `sync`
    meanwhile.
    """

    def __init__(
        self,
        policy: Policy,
        dtype: torch.dtype | None = None,
        *,
        batch_tokens: int | None = None,
        fixing: Fixing | None = None,
    ) -> None:
        """Start the process with the policy's weights as they are.

        Args:
            policy: What is trained; a process starts with a copy of it.
            dtype: What the weights are held in while sampling; None: as they are.
            batch_tokens: Tokens in the cache at once, at most; None: as the free memory allows.
            fixing: Whether steps are captured as CUDA graphs; None: on a GPU.

        Raises:
            ConfigError: the model cannot be sent to a process.
        """
        self.version = policy.version
        try:
            self._shared = Shared(policy)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{type(policy.model).__name__} cannot be sent to a process that samples ({error})."
                " Allowed: trainer.lag=0."
            ) from error
        settings = Settings(
            device=str(policy.device),
            dtype=dtype,
            batch_tokens=batch_tokens,
            fixing=fixing,
            threads=torch.get_num_threads(),
            products=torch.get_float32_matmul_precision(),
        )
        spawn = get_context("spawn")
        self._own, theirs = spawn.Pipe()
        given = (theirs, self._shared.memory, self._shared.rest, settings)
        self._process = spawn.Process(target=_serve, args=given, name="sampler", daemon=True)
        with _signals_held():
            self._process.start()
        theirs.close()
        # It never hears SIGTERM, by which Python ends such processes: this comes before that.
        self._end = util.Finalize(self, self._process.kill, exitpriority=100)
        self._busy = False

    def sync(self, policy: Policy) -> None:
        """Copy the weights that the policy computes with into the memory of the process."""
        self._shared.update(policy)
        self.version = policy.version

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        how: Decoding,
        *,
        tick: Callable[[], None] = lambda: None,
        keep: bool = False,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Sample the prompts, see `TorchSampler.sample`.

        Raises:
            ProcessLost: the process is gone.
        """
        self._send((self.version, keep, list(prompts), list(seeds), how))
        self._busy = True
        try:
            while (found := self._receive(tick)) is not None:
                yield found
        finally:
            if self._busy:  # given up: by `tick`, or by who asked
                self._give_up()

    def release(self) -> None:
        """Let the process drop the caches of conversations: they are over."""
        with suppress(OSError):  # where it is gone, the next call says so
            self._own.send(_RELEASE)

    def metrics(self) -> dict[str, float]:
        """Return nothing: the run measures the time of sampling itself."""
        return {}

    def close(self) -> None:
        """End the process."""
        if self._end.still_active():
            self._own.close()
            self._end()
            self._process.join()
            self._shared.memory.close()

    def _give_up(self) -> None:
        """Let the process stop; what it still sends, or that it is gone, is of no use."""
        with suppress(Exception):
            self._send(None)
        while self._busy:
            with suppress(Exception):
                self._receive(lambda: None)

    def _send(self, message: Any) -> None:
        try:
            self._own.send(message)
        except OSError as error:
            raise self._lost() from error

    def _receive(self, tick: Callable[[], None]) -> tuple[int, list[Completion]] | None:
        """Return the next group; None if there is none any more.

        Raises:
            ProcessLost: the process is gone.
        """
        try:
            tick()
            while not self._own.poll(_LOOK):
                tick()
            found = self._own.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        self._busy = isinstance(found, tuple)
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    def _lost(self) -> ProcessLost:
        self._busy = False
        self._process.join(_PATIENCE)
        code = self._process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        memory = ", which the system sends where memory runs out" if code == -signal.SIGKILL else ""
        return ProcessLost(
            f"the process that samples is gone ({how}{memory}); resume=auto goes on from the last "
            "checkpoint."
        )


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let processes that are started hear neither Ctrl-C nor SIGTERM: the run ends them."""
    resource_tracker.ensure_running()  # which would change the mask itself
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _GivenUp(Exception):
    """What is being sampled is of no use any more."""


def _serve(asked: Connection, memory: Memory, rest: bytes, settings: Settings) -> None:
    """Be the process: sample what is asked for, until the run closes its end or is gone."""
    torch.set_num_threads(settings.threads)
    torch.set_float32_matmul_precision(settings.products)
    server = _Server(asked, opened(rest, memory), settings)
    try:
        while True:
            message = asked.recv()
            if message == _RELEASE:
                server.sampler.release()
            elif message is not None:  # it was given up when it was over
                server.answer(*message)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


class _Server:
    """Answers in the process."""

    def __init__(self, asked: Connection, shared: Policy, settings: Settings) -> None:
        """Have the policy on its device: on a CPU it is the one in the shared memory."""
        self.asked, self.shared, self.policy = asked, shared, shared
        if settings.device != "cpu":
            self.policy = shared.copied().to(settings.device)
        self.sampler = TorchSampler(
            *(self.policy, settings.dtype),
            batch_tokens=settings.batch_tokens,
            fixing=settings.fixing,
        )

    def answer(self, version: int, keep: bool, *asked: Any) -> None:
        """Send the groups, then None; or what went wrong."""
        try:
            self._take(version)
            for found in self.sampler.sample(*asked, tick=self._tick, keep=keep):
                self.asked.send(found)
            self.asked.send(None)
        except _GivenUp:
            self.sampler.release()
            self.asked.send(None)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # noqa: BLE001 - of any kind; it is raised in the run
            self.asked.send(_sendable(error))

    def _take(self, version: int) -> None:
        """Sample with the weights that are in the memory, where they are others than before."""
        if self.sampler.version == version:
            return
        if self.policy is not self.shared:
            own = self.policy.masters.computing()
            with torch.no_grad():
                for name, p in self.shared.masters.computing().items():
                    own[name].copy_(p)
        self.policy.masters.publish()  # for what the model keeps that follows from them
        self.policy.version = version
        self.sampler.sync(self.policy)

    def _tick(self) -> None:
        if self.asked.poll():
            self.asked.recv()
            raise _GivenUp


def _sendable(error: Exception) -> Exception:
    """Return an error with its traceback as a note, in a form that can be sent."""
    if not isinstance(error, GrpoEnvsError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - of somebody's class
        found = RuntimeError(f"{type(error).__name__}: {error}")
        found.__notes__ = getattr(error, "__notes__", [])
        return found
    return error
