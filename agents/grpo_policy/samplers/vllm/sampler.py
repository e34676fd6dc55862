"""The sampler that gets its completions from vLLM servers."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from weakref import finalize

from accelerate.utils import broadcast_object_list

from grpo_envs.errors import ConfigError, RunStopped
from grpo_envs.types import Completion
from grpo_policy.policy import Policy
from grpo_policy.samplers.protocol import Decoding
from grpo_policy.samplers.room import room_behind
from grpo_policy.samplers.vllm.about import About, about
from grpo_policy.samplers.vllm.client import Refused, Server, ServerLost
from grpo_policy.samplers.vllm.plugin import VllmConfig
from grpo_policy.samplers.vllm.push import Transport, end_broken_update, give
from grpo_policy.samplers.vllm.requests import Asked, Dialect
from grpo_policy.samplers.vllm.round import Round

log = logging.getLogger(__name__)
_AGAIN = 5.0
"""Seconds until a ready server must have reported its properties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The servers of a run, and the index of this process among those that use them."""

    servers: Sequence[Server]
    about: About
    """Their properties, which are the same for all."""
    name: str
    """A name of the run that no other run has."""
    index: int = 0
    """The index of this process."""
    count: int = 1
    """Number of processes: each prefers its own servers, and the first pushes the weights."""

    def admit(self, server: Server) -> None:
        """Prepare a server for its first push, or for a push after it was lost.

        Raises:
            ServerLost: the server differs from the others, or does not answer.
        """
        if (found := about(server, _AGAIN)) != self.about:
            raise ServerLost(f"{server.url}: {found}, the others are {self.about}")
        end_broken_update(server, _AGAIN)

    def told(self, outcome: Sequence[str]) -> Sequence[str]:
        """Return the value of the first process in all processes; all must call it."""
        said = [outcome]
        if self.count > 1:
            broadcast_object_list(said)
        return said[0]

    @property
    def own(self) -> Sequence[Server]:
        """The servers that this process uses as long as one of them answers."""
        if self.count <= len(self.servers):
            return self.servers[self.index :: self.count]
        return [self.servers[self.index % len(self.servers)]]


@dataclass(slots=True, weakref_slot=True, eq=False)
class VllmSampler:
    """Samples with servers that get the weights at each `sync`."""

    policy: Policy
    cfg: VllmConfig
    fleet: Fleet
    transport: Transport | None
    """How servers get weights; None in all processes but the first."""
    held: ExitStack = field(repr=False)
    """Closed by `close`: the transport, and a server that the run started."""
    dtype: str
    """The dtype in which the servers compute: fp32, bf16 or fp16."""
    why: Callable[[], str] = field(default=lambda: "", repr=False)
    """Returns why the server that the run started has ended; '' while it runs."""
    version: int = -1
    """The version of the policy at the last call of `sync`."""
    lost: dict[Server, str] = field(default_factory=dict)
    """Servers that are not used, and why."""
    _weights: str = ""
    """The name of the version on the servers."""
    _has: dict[Server, str] = field(default_factory=dict)
    """The last version that was pushed to each server."""
    _seconds: float = 0.0
    """Seconds of the last push."""

    def __post_init__(self) -> None:
        """Close everything when the object is freed, if `close` was not called."""
        finalize(self, self.held.close)

    def identity(self) -> dict[str, str]:
        """Return what a resumed run must share with the run before, beside the configuration."""
        return {"engine": self.fleet.about.engine, "dtype": self.dtype}

    def sync(self, policy: Policy) -> None:
        """Push the policy's current weights to the servers. Must not be called during `sample`.

        A server that does not take the weights is lost until a later call reaches it again. If no
        server is left, `sample` raises.
        """
        self.policy = policy
        if policy.version == self.version:
            return
        begun = time.perf_counter()
        self.version, self._weights = policy.version, f"{self.fleet.name}-{policy.version}"
        outcome = self.fleet.told(self._push(self.transport) if self.transport else ())
        for server, why in zip(self.fleet.servers, outcome, strict=True):
            if why:
                self._lose(server, why)
                continue
            self._has[server] = self._weights
            if self.lost.pop(server, None) is not None:
                log.info("sampler: %s is back", server.url)
        self._seconds = time.perf_counter() - begun

    def _push(self, transport: Transport) -> list[str]:
        """Push the weights to all servers in parallel; return why each is lost, '' if it is not."""
        servers = self.fleet.servers
        try:
            snapshot = transport.write(self.policy, self._weights, self.dtype)
        except Exception as error:  # noqa: BLE001 - from the system, safetensors or torch
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            # Not raised here, in the middle of a step: `sample` raises.
            return [f"{transport.name} cannot be written: {cause}"] * len(servers)

        def push(server: Server) -> str:
            if server in self.lost and not server.ready():
                return self.lost[server]
            try:
                if server in self.lost or server not in self._has:
                    self.fleet.admit(server)
                give(server, snapshot, self._has.get(server))
            except (ServerLost, Refused) as error:
                return str(error)
            return ""

        with ThreadPoolExecutor(len(servers)) as pool:
            outcome = list(pool.map(push, servers))
        transport.clear(adapters=self.policy.has_adapters)
        return outcome

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        how: Decoding,
        *,
        tick: Callable[[], None] = lambda: None,
        keep: bool = False,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Sample the prompts; see `Sampler`.

        Another server samples the unfinished completions of a lost server again, with the same
        seeds. `keep` has no effect: servers find the contexts of conversations in their prefix
        caches.

        Raises:
            RunStopped: no server is left.
            ConfigError: the servers do not support the decoding, or the number of tokens.
        """
        adapter = self._weights if self.policy.has_adapters else None
        dialect = Dialect(self.policy.chat, how, self._weights, adapter)
        copies = len(seeds) // len(prompts)
        work = Round(dialect, self._asked(prompts, seeds, how), self.cfg.in_flight)
        found: defaultdict[int, dict[int, Completion]] = defaultdict(dict)
        try:
            with closing(work.written(self._servers, self._lose)) as stream:
                for news in stream:
                    tick()
                    if news is None:
                        continue
                    group, member = divmod(news[0], copies)
                    found[group][member] = dialect.completion(news[1])
                    if len(found[group]) == copies:
                        whole = found.pop(group)
                        yield group, [whole[member] for member in range(copies)]
        except Refused as error:
            raise RunStopped(f"sampler=vllm: {error}") from error

    def _asked(
        self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], how: Decoding
    ) -> list[Asked]:
        copies, length = len(seeds) // len(prompts), self.fleet.about.length
        asked = []
        for p, prompt in enumerate(prompts):
            most = min(how.max_new_tokens, room_behind(prompt, self.policy))
            if len(prompt) + most > length:
                raise ConfigError(
                    f"a prompt of {len(prompt):,} tokens with an answer of {most:,} exceeds the "
                    f"servers' context of {length:,}. Allowed: servers with a larger "
                    "--max-length, or a smaller sampler.max_new_tokens."
                )
            some = seeds[p * copies : (p + 1) * copies]
            asked += [Asked(prompt=prompt, seed=seed, most=most) for seed in some]
        return asked

    def _servers(self) -> Sequence[Server]:
        """Return the servers to use: this process's own, or all if none of these answers.

        Raises:
            RunStopped: no server answers.
        """
        for some in (self.fleet.own, self.fleet.servers):
            if live := [server for server in some if server not in self.lost]:
                return live
        why = self.why() or "; ".join(why.rstrip(".") for why in self.lost.values())
        raise RunStopped(
            f"no server is left that samples: {why}. Once a server runs, continue with resume=auto."
        )

    def _lose(self, server: Server, why: ServerLost | str) -> None:
        if server not in self.lost and len(self.fleet.servers) > len(self.lost) + 1:
            log.warning("sampler: %s; the other servers take over", why)
        self.lost[server] = str(why)

    def release(self) -> None:
        """Do nothing: servers drop caches when they need the memory."""

    def metrics(self) -> dict[str, float]:
        """Return the seconds of the last push and the number of servers that answer."""
        live = len(self.fleet.servers) - len(self.lost)
        return {"time/push": self._seconds, "sampler/servers": float(live)}

    def close(self) -> None:
        """End the server that the run started, and delete the weights for servers."""
        self.held.close()
