"""The sampler `torch` in its own process, which samples while the policy is updated."""

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
from grpo_policy.products import float32_products, set_float32_products
from grpo_policy.samplers.fixed import Fixing
from grpo_policy.samplers.protocol import Decoding
from grpo_policy.samplers.shared import Memory, Shared, opened
from grpo_policy.samplers.torch import TorchSampler

_LOOK = 0.05
"""Seconds between two calls of `tick` while no message arrives."""
_RELEASE = "release"
_PATIENCE = 5.0
"""Seconds to wait for the end of a process that has closed its connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings with which the process samples exactly as the run itself would."""

    device: str
    dtype: torch.dtype | None
    batch_tokens: int | None
    fixing: Fixing | None
    threads: int
    products: str
    """PyTorch's precision of float32 products."""


class SamplerProcess:
    """Samples in a process that has its own weights: those of the last `sync`.

    Its samples equal those of `TorchSampler` to the bit. Only one call of `sample` may run at a
    time, and no `sync` during it.
    """

    def __init__(
        self,
        policy: Policy,
        dtype: torch.dtype | None = None,
        *,
        batch_tokens: int | None = None,
        fixing: Fixing | None = None,
    ) -> None:
        """Start the process with the policy's current weights.

        Args:
            policy: The trained policy; the process starts with a copy of it.
            dtype: The dtype of the weights while sampling; None: their own.
            batch_tokens: The most tokens in the cache; None: as many as the free memory allows.
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
            products=float32_products(),
        )
        spawn = get_context("spawn")
        self._own, theirs = spawn.Pipe()
        given = (theirs, self._shared.memory, self._shared.rest, settings)
        self._process = spawn.Process(target=_serve, args=given, name="sampler", daemon=True)
        with _signals_held():
            self._process.start()
        theirs.close()
        # The process ignores SIGTERM, with which Python ends daemons, so it is killed before that.
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
            if self._busy:  # `tick` raised, or the caller stopped iterating
                self._give_up()

    def release(self) -> None:
        """Let the process drop the caches of conversations: they are over."""
        with suppress(OSError):  # if the process is gone, the next call raises
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
        """Let the process stop sampling; ignore what it still sends, and whether it is gone."""
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
        """Return the next group; None after the last.

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
            f"the sampling process has ended ({how}{memory}); resume=auto continues from the last "
            "checkpoint."
        )


@contextmanager
def _signals_held() -> Iterator[None]:
    """Within the context new processes inherit blocked SIGINT and SIGTERM: the run ends them."""
    resource_tracker.ensure_running()  # otherwise its start would change the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _GivenUp(Exception):
    """The run does not need the current samples any more."""


def _serve(asked: Connection, memory: Memory, rest: bytes, settings: Settings) -> None:
    """Run the process: sample on request, until the run closes its connection or is gone."""
    torch.set_num_threads(settings.threads)
    set_float32_products(settings.products)
    server = _Server(asked, opened(rest, memory), settings)
    try:
        while True:
            message = asked.recv()
            if message == _RELEASE:
                server.sampler.release()
            elif message is not None:  # None: given up after the last group was sent
                server.answer(*message)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


class _Server:
    """Answers the run's requests in the process."""

    def __init__(self, asked: Connection, shared: Policy, settings: Settings) -> None:
        """Put the policy on its device; on a CPU it stays in the shared memory."""
        self.asked, self.shared, self.policy = asked, shared, shared
        if settings.device != "cpu":
            self.policy = shared.copied().to(settings.device)
        self.sampler = TorchSampler(
            *(self.policy, settings.dtype),
            batch_tokens=settings.batch_tokens,
            fixing=settings.fixing,
        )

    def answer(self, version: int, keep: bool, *asked: Any) -> None:
        """Send the groups, then None; or an exception."""
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
        except Exception as error:  # noqa: BLE001 - any error is raised again in the run
            self.asked.send(_sendable(error))

    def _take(self, version: int) -> None:
        """Take over the weights in the shared memory if their version is new."""
        if self.sampler.version == version:
            return
        if self.policy is not self.shared:
            own = self.policy.masters.computing()
            with torch.no_grad():
                for name, p in self.shared.masters.computing().items():
                    own[name].copy_(p)
        self.policy.masters.publish()  # recomputes merged adapters
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
    except Exception:  # noqa: BLE001 - a class of another package
        found = RuntimeError(f"{type(error).__name__}: {error}")
        found.__notes__ = getattr(error, "__notes__", [])
        return found
    return error
