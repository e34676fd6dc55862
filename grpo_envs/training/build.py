"""From a RunConfig to a Trainer: the only place that knows every part."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers.utils import logging as transformers_logging

from grpo_envs.config.model import SamplerConfig
from grpo_envs.config.schema import RunConfig, TrainerConfig
from grpo_envs.env import TextEnv
from grpo_envs.env.installed import AGENTS, LOGGERS, load
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError
from grpo_envs.runs.checkpoint import Checkpoints
from grpo_envs.runtime import launch
from grpo_envs.runtime.processes import ALONE, Processes
from grpo_envs.runtime.stopping import Stop
from grpo_envs.training.environments import Envs
from grpo_envs.training.evaluation import Evaluation
from grpo_envs.training.trainer import Trainer
from grpo_policy.models import add_adapters, hints, load_policy, resolve, restore
from grpo_policy.policy import Policy
from grpo_policy.rollout import Rollout
from grpo_policy.samplers import Decoding
from grpo_policy.sharding import sharding_accelerator

log = logging.getLogger(__name__)


def build(cfg: RunConfig, out: Path, envs: Envs, processes: Processes = ALONE) -> Trainer:
    """Make everything that a run needs.

    Args:
        cfg: A validated configuration.
        out: The run's folder.
        envs: What `make_envs` makes of the configuration.
        processes: Those that share the run. The first alone logs.

    Raises:
        GrpoEnvsError: one line that says what to change.
    """
    agent_class = load(AGENTS, cfg.agent.name)
    policy, accelerator = open_policy(cfg)
    filled = filled_in(cfg, policy)
    _make_trainable(policy, cfg, compute_dtype(accelerator))
    # The agent first: it moves the policy to the device and copies the reference before a resume
    # puts trained weights into the policy.
    agent = agent_class(policy, filled.agent, accelerator, filled.sampler)
    checkpoints = Checkpoints(out, cfg.trainer.keep_checkpoints)
    done, state = _resume(agent, envs.train.env, cfg, checkpoints) if cfg.resume else (0, {})
    log.info("%s", _summary(filled, policy, accelerator))
    log.info("first prompt, as the model sees it: %r", _first_prompt(envs.train, policy))
    dtype = sampling_dtype(cfg.sampler, accelerator)
    stop = Stop(patient=processes.count == 1)
    sampling = _decoding(filled.sampler)
    rollout = Rollout(envs.train, policy, sampling, cfg.seed, dtype, tick=stop.check)
    evaluation = make_evaluation(
        filled, policy, (envs.held_out, envs.problems), dtype, tick=stop.check, processes=processes
    )
    names = cfg.logger.names if processes.first else []
    return Trainer(
        cfg=cfg.trainer,
        seed=cfg.seed,
        agent=agent,
        env=envs.train.env,
        rollout=processes.shared(rollout),
        evaluation=evaluation,
        loggers=[load(LOGGERS, name)(out, cfg.trainer.steps, done) for name in names],
        checkpoints=checkpoints,
        decisive=cfg.decisive(),
        group_size=cfg.agent.group_size,
        resamplings=cfg.agent.dynamic_sampling,
        done=done,
        drawn=state.get("drawn", 0),
        last=state.get("last", {}),
        skipped=state.get("skipped", 0),
        owes_evaluation=state.get("owes_evaluation", False),
        stop=stop,
        processes=processes,
    )


def open_policy(cfg: RunConfig, *, adapters: bool = False) -> tuple[Policy, Accelerator]:
    """Load the model that the configuration means here, and say which; it is still on the CPU.

    Args:
        cfg: Names it.
        adapters: Whether it may be a checkpoint of adapters.

    Raises:
        ConfigError: one line that says what to change.
    """
    accelerator = make_accelerator(cfg.trainer)
    transformers_logging.disable_progress_bar()
    path, why = resolve(cfg.model, accelerator.device)
    log.info(why)
    return load_policy(path, adapters=adapters), accelerator


def make_evaluation(
    cfg: RunConfig,
    policy: Policy,
    held_out: tuple[TextEnv, int],
    dtype: torch.dtype | None,
    *,
    tick: Callable[[], None] = lambda: None,
    processes: Processes = ALONE,
) -> Evaluation:
    """Make what evaluates a policy.

    Args:
        cfg: Filled in, see `filled_in`.
        policy: Who answers.
        held_out: The environment, and how many of its problems.
        dtype: What the weights are held in meanwhile, see `Rollout`.
        tick: Called before each token.
        processes: Those that share the problems.
    """
    tokens = cfg.trainer.eval_max_new_tokens or cfg.sampler.max_new_tokens
    assert tokens is not None  # filled in

    def play(env: GroupVectorEnv, temperature: float) -> Rollout:
        decoding = Decoding(max_new_tokens=tokens, temperature=temperature)
        return Rollout(env, policy, decoding, cfg.seed, dtype, tick=tick)

    env, problems = held_out
    return Evaluation(
        env=env,
        problems=problems,
        samples=cfg.trainer.eval_samples,
        temperature=cfg.trainer.eval_temperature,
        play=play,
        processes=processes,
    )


def make_accelerator(cfg: TrainerConfig) -> Accelerator:
    """Return an Accelerator for the device and precision that the configuration means here."""
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("trainer.device=cuda: no CUDA GPU here. Allowed: cpu, auto.")
    # One process may make several runs (a sweep); Accelerate keeps the first one's settings.
    AcceleratorState._reset_state(reset_partial_state=True)
    cpu = cfg.device == "cpu" or not torch.cuda.is_available()
    bf16 = cfg.precision == "bf16" or (
        cfg.precision == "auto" and not cpu and torch.cuda.is_bf16_supported()
    )
    accelerator = sharding_accelerator(cpu=cpu, mixed_precision="bf16" if bf16 else "no")
    if accelerator.num_processes != launch.count():
        raise ConfigError(
            f"{accelerator.num_processes} processes, by a launcher that is not known here. "
            "Allowed: accelerate launch, torchrun."
        )
    return accelerator


def _decoding(cfg: SamplerConfig) -> Decoding:
    assert cfg.max_new_tokens is not None  # filled in
    return Decoding(max_new_tokens=cfg.max_new_tokens, temperature=cfg.temperature)


def compute_dtype(accelerator: Accelerator) -> torch.dtype:
    """Return what matrix products are computed in."""
    return torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32


def sampling_dtype(cfg: SamplerConfig, accelerator: Accelerator) -> torch.dtype | None:
    """Return what weights are held in while sampling, None where that is as they are."""
    same = cfg.precision == "auto" and compute_dtype(accelerator) is torch.bfloat16
    return torch.bfloat16 if same or cfg.precision == "bf16" else None


def _make_trainable(policy: Policy, cfg: RunConfig, compute: torch.dtype) -> None:
    if cfg.model.gradient_checkpointing:
        policy.checkpoint_layers()
    if cfg.model.lora.rank:
        add_adapters(policy, cfg.model.lora, compute, seed=cfg.seed)


def _resume(
    agent: Any, env: TextEnv, cfg: RunConfig, checkpoints: Checkpoints
) -> tuple[int, dict[str, Any]]:
    """Put agent and environment back to where they were; return the steps done and the state."""
    step, folder, state = checkpoints.load(cfg.decisive())
    restore(agent.policy, folder)
    agent.load_state_dict(state["agent"])
    env.load_state_dict(state.get("env", {}))
    log.info("resuming %s after step %d", checkpoints.folder.parent, step)
    return step, state


def filled_in(cfg: RunConfig, policy: Policy) -> RunConfig:
    """Put what the model wants in the place of nulls."""
    advice = hints(policy)
    lr = advice.lr if cfg.agent.lr is None else cfg.agent.lr
    tokens = cfg.sampler.max_new_tokens or advice.max_new_tokens
    return replace(
        cfg, agent=replace(cfg.agent, lr=lr), sampler=replace(cfg.sampler, max_new_tokens=tokens)
    )


def _summary(cfg: RunConfig, policy: Policy, accelerator: Accelerator) -> str:
    millions = sum(p.numel() for p in policy.model.parameters()) / 1e6
    adapters = sum(p.numel() for p in policy.trained_parameters()) / 1e6
    trained = f", {adapters:.2f} M of them trained (LoRA)," if policy.has_adapters else ""
    count = accelerator.num_processes
    sharded = ", sharded" if accelerator.is_fsdp2 else ""
    processes = f" in {count} processes{sharded}" if count > 1 else ""
    return (
        f"{millions:.1f} M parameters{trained} on {accelerator.device.type}{processes}, "
        f"{accelerator.mixed_precision.replace('no', 'fp32')}; {cfg.trainer.steps} steps of "
        f"{cfg.trainer.prompts_per_step} prompts x {cfg.agent.group_size} completions of at most "
        f"{cfg.sampler.max_new_tokens} tokens; lr {cfg.agent.lr:g}, beta {cfg.agent.loss.beta:g}"
    )


def _first_prompt(env: GroupVectorEnv, policy: Policy) -> str:
    problem = env.env.problem(0)
    ids = policy.render(problem.prompt, env.env.system_prompt_of(problem))
    return str(policy.tokenizer.decode(list(ids)))
