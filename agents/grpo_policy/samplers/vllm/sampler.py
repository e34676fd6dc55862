"""The sampler whose completions come from servers of vLLM."""

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
"""Seconds in which a server that is ready must say what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The servers of a run, and this process's place among those that use them."""

    servers: Sequence[Server]
    about: About
    """What they are: all alike."""
    name: str
    """Of the run: no other one has it."""
    index: int = 0
    """Of this process."""
    count: int = 1
    """Of processes: each prefers servers of its own, and the first gives them the weights."""

    def admit(self, server: Server) -> None:
        """Make a server ready for its first push, or for one after it was lost.

        Raises:
            ServerLost: it is not as the others, or does not answer.
        """
        if (found := about(server, _AGAIN)) != self.about:
            raise ServerLost(f"{server.url}: {found}, the others are {self.about}")
        end_broken_update(server, _AGAIN)

    def told(self, outcome: Sequence[str]) -> Sequence[str]:
        """Return what the first process says, in all of them; all of them call it."""
        said = [outcome]
        if self.count > 1:
            broadcast_object_list(said)
        return said[0]

    @property
    def own(self) -> Sequence[Server]:
        """The servers that this process asks, as long as one of them answers."""
        if self.count <= len(self.servers):
            return self.servers[self.index :: self.count]
        return [self.servers[self.index % len(self.servers)]]


@dataclass(slots=True, weakref_slot=True, eq=False)
class VllmSampler:
    """Samples with servers that are given the weights at each `sync`."""

    policy: Policy
    cfg: VllmConfig
    fleet: Fleet
    transport: Transport | None
    """How the weights get to servers; of the first process only."""
    held: ExitStack = field(repr=False)
    """What `close` lets go of: the transport, and a server that the run started."""
    dtype: str
    """What the servers compute in: fp32, bf16 or fp16."""
    why: Callable[[], str] = field(default=lambda: "", repr=False)
    """Says why the server that the run started has ended; '' where it has not."""
    version: int = -1
    """The policy's when `sync` was called last."""
    lost: dict[Server, str] = field(default_factory=dict)
    """Servers that are not asked, and why."""
    _weights: str = ""
    """The version by the name that servers know it by."""
    _has: dict[Server, str] = field(default_factory=dict)
    """The last version that each server was given."""
    _seconds: float = 0.0
    """That the last push took."""

    def __post_init__(self) -> None:
        """Let go of everything with the object itself, where nobody has called `close`."""
        finalize(self, self.held.close)

    def identity(self) -> dict[str, str]:
        """Return what a resumed run must share with the run before, beside its configuration."""
        return {"engine": self.fleet.about.engine, "dtype": self.dtype}

    def sync(self, policy: Policy) -> None:
        """Give the servers the policy's weights as they are now. Not in the midst of `sample`.

        A server that does not take them is lost, until a later call finds it again; where none is
        left, `sample` raises.
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
        """Give all servers at once the weights; return why each is lost, '' where it is not."""
        servers = self.fleet.servers
        try:
            snapshot = transport.write(self.policy, self._weights, self.dtype)
        except Exception as error:  # noqa: BLE001 - of the system, safetensors or torch
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            # Not raised here: a step is half done.
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

        What a server that is lost was asked for is sampled again by another one, with the same
        seeds. Servers find the contexts of conversations in their prefix caches, whatever `keep`
        says.

        Raises:
            RunStopped: no server is left.
            ConfigError: the servers cannot decode so, or not so many tokens.
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
                    f"a prompt of {len(prompt):,} tokens with an answer of {most:,}, and the "
                    f"servers' contexts hold {length:,}. Allowed: servers with a larger "
                    "--max-length, or a smaller sampler.max_new_tokens."
                )
            some = seeds[p * copies : (p + 1) * copies]
            asked += [Asked(prompt=prompt, seed=seed, most=most) for seed in some]
        return asked

    def _servers(self) -> Sequence[Server]:
        """Return the servers to ask: this process's own, or all where none of them answers.

        Raises:
            RunStopped: there is none.
        """
        for some in (self.fleet.own, self.fleet.servers):
            if live := [server for server in some if server not in self.lost]:
                return live
        why = self.why() or "; ".join(why.rstrip(".") for why in self.lost.values())
        raise RunStopped(
            f"no server is left that samples: {why}. Once one is there again, resume=auto goes on."
        )

    def _lose(self, server: Server, why: ServerLost | str) -> None:
        if server not in self.lost and len(self.fleet.servers) > len(self.lost) + 1:
            log.warning("sampler: %s; the other servers take over", why)
        self.lost[server] = str(why)

    def release(self) -> None:
        """Do nothing: servers drop what they kept where they need the room."""

    def metrics(self) -> dict[str, float]:
        """Return the seconds of the last push, and how many servers answer."""
        live = len(self.fleet.servers) - len(self.lost)
        return {"time/push": self._seconds, "sampler/servers": float(live)}

    def close(self) -> None:
        """End the server that the run started, and take away the weights left for servers."""
        self.held.close()
