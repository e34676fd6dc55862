"""From a RunConfig to a Trainer: the only module that knows all parts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from grpo_envs.config.schema import RunConfig, TrainerConfig
from grpo_envs.env import TextEnv
from grpo_envs.env.installed import AGENTS, LOGGERS, SAMPLERS, load
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError
from grpo_envs.loggers import Logger
from grpo_envs.runs.checkpoint import Checkpoints
from grpo_envs.runtime import launch, threads
from grpo_envs.runtime.files import shown
from grpo_envs.runtime.processes import ALONE, Processes
from grpo_envs.runtime.stopping import Stop
from grpo_envs.training.agent import Agent, Parts, Plan
from grpo_envs.training.decoding import (
    evaluation_decoding,
    require_ahead,
    require_decoded,
    training_decoding,
)
from grpo_envs.training.environments import Envs, place_graders
from grpo_envs.training.evaluation import Evaluation
from grpo_envs.training.evaluations import Evaluations
from grpo_envs.training.limits import Limits
from grpo_envs.training.precision import compute_dtype, compute_in
from grpo_envs.training.sources import make_source
from grpo_envs.training.start import log_start
from grpo_envs.training.trainable import require_trainable
from grpo_envs.training.trainer import RESUMED, Trainer
from grpo_envs.training.utilisation import Utilisation
from grpo_envs.training.watch import Watch
from grpo_policy.adapters import add_adapters
from grpo_policy.chat import Chat
from grpo_policy.context import rope_line
from grpo_policy.exporting import merged_policy
from grpo_policy.imitation import Demonstrations
from grpo_policy.loading import remarks
from grpo_policy.models import load_policy, resolve, restore
from grpo_policy.parts import held_whole
from grpo_policy.policy import Policy
from grpo_policy.replicas import sharding_accelerator
from grpo_policy.rollout import Rollout
from grpo_policy.room import Room
from grpo_policy.samplers import Decoding, Sampler, SamplerParts, SamplerPlugin, require_sampler
from grpo_policy.saving import base_of

log = logging.getLogger(__name__)


def build(cfg: RunConfig, out: Path, envs: Envs, processes: Processes = ALONE) -> Trainer:
    """Make the trainer of a run, with all parts.

    Args:
        cfg: A validated configuration.
        out: The run's folder.
        envs: The environments that `make_envs` made.
        processes: The processes of the run. Only the first one logs.

    Raises:
        GrpoEnvsError: one line that says what to change.
    """
    require_trainable(cfg, processes)
    policy, accelerator = open_policy(cfg)
    _make_trainable(policy, cfg, accelerator.device, out if processes.first else None)
    parts = _parts(cfg, policy, accelerator, training_decoding(cfg, policy))
    # The agent first: it moves the policy to the device, and copies the reference before a resumed
    # run loads trained weights. The sampler last: it may copy these weights.
    agent: Agent = load(AGENTS, cfg.agent.name).make(cfg.agent, parts)
    checkpoints = Checkpoints(out, cfg.trainer.keep_checkpoints, cfg.trainer.save_dtype)
    done, state = _resume(agent, policy, cfg, checkpoints) if cfg.resume else (0, {})
    sampler = make_sampler(cfg, policy, accelerator, ahead=cfg.trainer.lag > 0)
    finder = Demonstrations if cfg.agent.imitates else Room
    log_start(cfg, parts, agent, room := _room(cfg, envs.train.env, policy.chat, finder))
    place_graders(cfg, envs.train, accelerator.device.type)
    stop = Stop(patient=processes.count == 1)
    source = make_source(cfg, parts, sampler, envs.train, room=room, stop=stop, processes=processes)
    if state:
        source.load_state_dict(state["source"])
        envs.train.env.load_state_dict(state["env"])
    return Trainer(
        cfg=cfg.trainer,
        agent=agent,
        policy=policy,
        env=envs.train.env,
        source=source,
        sampler=sampler,
        evaluation=_evaluations(cfg, policy, envs, sampler, stop=stop, processes=processes),
        loggers=_loggers(cfg, out, done) if processes.first else [],
        checkpoints=checkpoints,
        decisive=cfg.decisive(),
        group_size=cfg.agent.group_size,
        flat=cfg.agent.flat,
        done=done,
        stop=stop,
        processes=processes,
        utilisation=Utilisation.of(policy, accelerator, cfg.agent),
        limits=Limits.of(cfg.trainer, state.get("limits", {})),
        watch=Watch(samples=not cfg.agent.imitates),
        **{key: state[key] for key in RESUMED if key in state},
    )


def _evaluations(
    cfg: RunConfig,
    policy: Policy,
    envs: Envs,
    sampler: Sampler,
    *,
    stop: Stop,
    processes: Processes,
) -> Evaluations:
    held_out = {"": (envs.held_out, envs.problems), **envs.others}
    made = {
        name: make_evaluation(cfg, policy, each, sampler, tick=stop.check, processes=processes)
        for name, each in held_out.items()
    }
    return Evaluations(made.pop(""), made)


def _parts(cfg: RunConfig, policy: Policy, accelerator: Accelerator, decoding: Decoding) -> Parts:
    # Below float32, results depend on the shape of a batch in many last bits.
    low = policy.model.dtype != torch.float32 or cfg.sampler.name != "torch" or cfg.trainer.lag
    held = getattr(cfg.sampler, "precision", "auto")
    return Parts(
        policy=policy,
        accelerator=accelerator,
        decoding=decoding,
        same_arithmetic=not low and held in ("auto", "fp32"),
        seed=cfg.seed,
        plan=Plan(steps=cfg.trainer.steps, temperature=cfg.sampler.temperature),
    )


def _room(cfg: RunConfig, env: TextEnv, chat: Chat, finder: type[Room] = Room) -> Room:
    """Return the object that finds problems that fit into the model's context.

    Raises:
        ConfigError: no problem fits, or one does not fit and `env.too_long` is `error`.
    """
    room = finder(env, chat, drop=cfg.too_long == "drop")
    room.check()
    return room


def make_sampler(
    cfg: RunConfig, policy: Policy, accelerator: Accelerator, *, ahead: bool = False
) -> Sampler:
    """Return the sampler that the configuration names, with the policy's present weights.

    Args:
        cfg: The configuration.
        policy: The model.
        accelerator: For the device.
        ahead: Whether the sampler samples while the policy is updated.

    Raises:
        GrpoEnvsError: one line that says what to change.
    """
    plugin: type[SamplerPlugin] = load(SAMPLERS, cfg.sampler.name)
    require_decoded(cfg, policy, plugin)
    if ahead:
        require_ahead(cfg, plugin)
    parts = SamplerParts(policy=policy, accelerator=accelerator, ahead=ahead)
    sampler = plugin.make(cfg.sampler, parts)
    require_sampler(cfg.sampler.name, sampler)
    with held_whole(policy.model):
        sampler.sync(policy)
    return sampler


def _loggers(cfg: RunConfig, out: Path, done: int) -> list[Logger]:
    return [load(LOGGERS, name)(out, cfg.trainer.steps, done) for name in cfg.logger.names]


def open_policy(cfg: RunConfig, *, adapters: bool = False) -> tuple[Policy, Accelerator]:
    """Load the model of the configuration, and log which it is; it stays on the CPU.

    Args:
        cfg: The configuration.
        adapters: Whether the model may be a checkpoint of adapters.

    Raises:
        ConfigError: one line that says what to change.
    """
    accelerator = make_accelerator(cfg.trainer)
    log.info((model := resolve(cfg.model, accelerator.device)).line)
    # Trained weights are loaded in float32, for the optimiser. The base of adapters is not trained.
    device = accelerator.device
    dtype = compute_dtype(cfg.trainer, device) if cfg.model.lora.rank else torch.float32
    if not adapters and not cfg.model.quantization and (base := base_of(model.path)):
        policy = merged_policy(base, Path(model.path), cfg.model)
        log.info("model: its adapters (LoRA) are merged into the weights of %s", shown(Path(base)))
    else:
        policy = load_policy(model.path, cfg.model, adapters=adapters, dtype=dtype, device=device)
    for remark in remarks(policy, cfg.model):
        log.info("model: %s", remark)
    reach = policy.reach.line if policy.reach else ""
    for line in filter(None, (rope_line(policy.model.config), reach)):
        log.info(line)
    if device.type == "cpu":
        processes = 2 if cfg.trainer.lag else 1  # one samples, one learns
        threads.settle(cfg.trainer.threads, policy.size, processes=processes)
    return policy, accelerator


def make_evaluation(
    cfg: RunConfig,
    policy: Policy,
    held_out: tuple[TextEnv, int],
    sampler: Sampler,
    *,
    tick: Callable[[], None] = lambda: None,
    processes: Processes = ALONE,
) -> Evaluation:
    """Make the evaluation of a policy.

    Args:
        cfg: The configuration; `trainer.eval_*` apply.
        policy: The model; the sampler has its weights.
        held_out: The environment, and the number of problems.
        sampler: Samples the answers.
        tick: Called often while sampling.
        processes: The processes that share the problems.

    Raises:
        ConfigError: the problems are too long for the model's context.
    """

    def play(env: GroupVectorEnv, temperature: float) -> Rollout:
        decoding = evaluation_decoding(cfg, policy, temperature)
        rollout = Rollout(env, policy.chat, sampler, decoding, cfg.seed, tick=tick)
        return replace(rollout, answered=made.answered)

    env, problems = held_out
    made = Evaluation(
        env=env,
        room=_room(cfg, env, policy.chat) if problems else Room(env, policy.chat),
        problems=problems,
        samples=cfg.trainer.eval_samples,
        temperature=cfg.trainer.eval_temperature,
        play=play,
        processes=processes,
    )
    return made


def make_accelerator(cfg: TrainerConfig) -> Accelerator:
    """Return an Accelerator for the device of the configuration on this machine."""
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("trainer.device=cuda: no CUDA GPU here. Allowed: cpu, auto.")
    # One process may make several runs (a sweep); Accelerate keeps the first one's settings.
    AcceleratorState._reset_state(reset_partial_state=True)
    cpu = cfg.device == "cpu" or not torch.cuda.is_available()
    if cpu and torch.backends.mps.is_available():
        log.info("on the CPU: Apple's GPU (MPS) is not used, because it has not been tested.")
    # Accelerate does not cast: a policy's weights have the type that it computes in.
    accelerator = sharding_accelerator(cfg.shard, cpu=cpu, mixed_precision="no")
    if accelerator.num_processes != launch.count():
        raise ConfigError(
            f"{accelerator.num_processes} processes, by a launcher that is not known here. "
            "Allowed: accelerate launch, torchrun."
        )
    return accelerator


def _make_trainable(policy: Policy, cfg: RunConfig, device: torch.device, out: Path | None) -> None:
    """Prepare the policy for training; only the first of several processes has a folder."""
    dtype = compute_dtype(cfg.trainer, device)
    if cfg.model.gradient_checkpointing:
        policy.checkpoint_layers()
    if cfg.model.lora.rank:
        add_adapters(policy, cfg.model.lora, dtype, seed=cfg.seed, base=out and out / "base")
    compute_in(policy, dtype)


def _resume(
    agent: Agent, policy: Policy, cfg: RunConfig, checkpoints: Checkpoints
) -> tuple[int, dict[str, Any]]:
    """Restore weights and agent from the checkpoint; return the steps done and the state."""
    step, folder, state = checkpoints.load(cfg.decisive())
    own_code = cfg.model.trust_remote_code
    restore(policy, folder, state.get("weights"), own_code=own_code)
    agent.load_state_dict(state["agent"])
    threads.settle(cfg.trainer.threads, policy.size, state.get("threads", threads.computing()))
    log.info("resuming %s after step %d", checkpoints.folder.parent, step)
    return step, state
