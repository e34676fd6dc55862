"""Opening the sampler `vllm`: start or find its servers and check them."""

from __future__ import annotations

import logging
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from grpo_envs.errors import ConfigError, require
from grpo_envs.runtime.progress import phase
from grpo_policy.chat import NO_LIMIT
from grpo_policy.masters import dtype_name
from grpo_policy.policy import Policy
from grpo_policy.samplers.protocol import SamplerParts
from grpo_policy.samplers.vllm.about import (
    About,
    about,
    adapter_rank,
    require_alike,
    require_broadcasts,
)
from grpo_policy.samplers.vllm.broadcast import Broadcast
from grpo_policy.samplers.vllm.client import Refused, Server, ServerLost
from grpo_policy.samplers.vllm.own import Engine, Started, find_python, free_port
from grpo_policy.samplers.vllm.plugin import VllmConfig
from grpo_policy.samplers.vllm.push import Store, Transport, is_here
from grpo_policy.samplers.vllm.sampler import Fleet, VllmSampler

log = logging.getLogger(__name__)


def open_sampler(cfg: VllmConfig, parts: SamplerParts) -> VllmSampler:
    """Return a sampler whose servers are up and suit the run; no weights are pushed yet.

    Raises:
        ConfigError: one line that says what to change.
    """
    policy, accelerator = parts.policy, parts.accelerator
    _require_pushable(cfg, policy, accelerator.num_processes)
    dtype = dtype_name(policy.model.dtype) if cfg.precision == "auto" else cfg.precision
    with ExitStack() as opened:
        started = None if cfg.urls else _start(cfg, policy, dtype, opened)
        urls = [started.engine.url] if started else cfg.urls
        servers = [Server(url, cfg.timeout) for url in urls]
        if started:
            _wait(servers[0], started, cfg.start_timeout)
        lost: dict[Server, str] = {}
        seen = _look(servers, lost)
        require_alike(seen, dtype, policy)
        for server in servers:
            _require_reachable(cfg, server)
        if cfg.push == "broadcast":
            require_broadcasts(seen)
        fleet = Fleet(
            servers=servers,
            about=next(iter(seen.values())),
            name=_common_name(accelerator),
            index=accelerator.process_index,
            count=accelerator.num_processes,
        )
        log.info("sampler: %s, %s, at %s", fleet.about.engine, dtype, ", ".join(urls))
        return VllmSampler(
            policy=policy,
            cfg=cfg,
            fleet=fleet,
            transport=_transport(cfg, fleet, accelerator, opened),
            held=opened.pop_all(),
            dtype=dtype,
            why=started.ended if started else lambda: "",
            lost=lost,
        )
    raise AssertionError  # an ExitStack hides no exception


def _require_pushable(cfg: VllmConfig, policy: Policy, processes: int) -> None:
    """Refuse weights that no server can take, before a server is started."""
    if getattr(policy.model, "quantization_method", None) is not None:
        raise ConfigError(
            "model.quantization with sampler=vllm: packed weights are not pushed. Allowed: "
            "model.quantization=null, or sampler=torch."
        )
    if processes > 1 and not cfg.urls:
        raise ConfigError(
            f"sampler.urls=[] in {processes} processes: only a single process can start its own "
            "server. Allowed: addresses of servers that `python -m grpo_envs.engine` started."
        )
    if policy.has_adapters and cfg.push in ("http", "broadcast"):
        raise ConfigError(
            f"sampler.push={cfg.push} with model.lora.rank above 0: vLLM reads adapters from "
            "files. Allowed: shm, folder."
        )


def _start(cfg: VllmConfig, policy: Policy, dtype: str, opened: ExitStack) -> Started:
    """Start a server for the policy's model; closing `opened` ends it."""
    python = find_python(cfg.python)
    if policy.has_adapters:
        model = next(iter(policy.model.peft_config.values())).base_model_name_or_path
    else:
        model = tempfile.mkdtemp(prefix="grpo-envs-vllm-")
        policy.save(Path(model), dtype)
    limit = policy.context_length
    engine = Engine(
        model=str(model),
        python=python,
        port=free_port(),
        dtype=dtype,
        max_length=None if limit == NO_LIMIT else limit,
        lora_rank=adapter_rank(policy),
        temporary=not policy.has_adapters,
        flags=cfg.flags,
    )
    started = Started(engine)
    opened.callback(started.close)
    return started


def _wait(server: Server, started: Started, limit: float) -> None:
    try:
        with phase("starting the engine of sampler=vllm"):
            server.wait(limit, started.check)
    except ServerLost as error:
        said = f"{error} (sampler.start_timeout). Its log: {started.log}"
        raise ConfigError(f"sampler=vllm: {said}") from error


def _look(servers: list[Server], lost: dict[Server, str]) -> dict[Server, About]:
    """Return the properties of the servers; those that do not answer are put into `lost`.

    Raises:
        ConfigError: no server answers.
    """
    seen = {}
    for server in servers:
        try:
            seen[server] = about(server)
        except (ServerLost, Refused) as error:
            lost[server] = str(error)
    if not seen:
        raise ConfigError(
            f"sampler.urls: no server answers: {'; '.join(lost.values())}. "
            "`python -m grpo_envs.engine --model ... --port ...` starts one."
        )
    for why in lost.values():
        log.warning("sampler: %s; the other servers take over", why)
    return seen


def _require_reachable(cfg: VllmConfig, server: Server) -> None:
    require(
        cfg.push != "shm" or is_here(server),
        "sampler.push",
        f"shm with {server.url}, which is not this machine",
        "http, or folder with sampler.folder",
    )


def _transport(
    cfg: VllmConfig, fleet: Fleet, accelerator: Accelerator, opened: ExitStack
) -> Transport | None:
    """Return how weights get to servers, in the first process; it is closed with `opened`."""
    if not accelerator.is_main_process:
        return None
    if cfg.push == "broadcast":
        transport: Transport = Broadcast(fleet.name, accelerator.device)
    else:
        transport = _store(cfg, fleet)
    opened.callback(transport.close)
    return transport


def _store(cfg: VllmConfig, fleet: Fleet) -> Store:
    try:
        return Store(cfg.push, cfg.folder, fleet.name)
    except OSError as error:
        where = f"sampler.folder={cfg.folder}" if cfg.push == "folder" else "sampler.push=shm"
        raise ConfigError(f"{where}: {error.strerror}.") from error


def _common_name(accelerator: Accelerator) -> str:
    """Return a name that all processes of the run share and that no other run has."""
    names = [uuid.uuid4().hex[:16]]
    if accelerator.num_processes > 1:
        broadcast_object_list(names)
    return names[0]
