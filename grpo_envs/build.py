"""From a RunConfig to a Trainer: the only place that knows every part."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers.utils import logging as transformers_logging

from grpo_agent.models import hints, load_policy, resolve
from grpo_agent.policy import Policy
from grpo_agent.rollout import Rollout
from grpo_agent.sampler import Decoding
from grpo_envs import plugins
from grpo_envs.checkpoint import Checkpoints
from grpo_envs.config import RunConfig, TrainerConfig
from grpo_envs.errors import ConfigError
from grpo_envs.loggers import LOGGERS
from grpo_envs.trainer import Trainer
from grpo_envs.vector import GroupVectorEnv

log = logging.getLogger(__name__)


def build(cfg: RunConfig, out: Path) -> Trainer:
    """Make everything that a run needs, the environment (which may refuse) before the model.

    Args:
        cfg: A validated configuration.
        out: The run's folder.

    Raises:
        GrpoEnvsError: one line that says what to change.
    """
    train_env, eval_env, eval_problems = make_envs(cfg)
    agent_class = plugins.load(plugins.AGENTS, cfg.agent.name)
    accelerator = make_accelerator(cfg.trainer)
    path, why = resolve(cfg.model, accelerator.device)
    log.info(why)
    transformers_logging.disable_progress_bar()
    policy = load_policy(path)
    advice = hints(policy)
    lr = advice.lr if cfg.agent.lr is None else cfg.agent.lr
    tokens = cfg.sampler.max_new_tokens or advice.max_new_tokens
    # The agent first: it moves the policy to the device and copies the reference before a resume
    # puts trained weights into the policy.
    agent = agent_class(
        policy, replace(cfg.agent, lr=lr), accelerator, temperature=cfg.sampler.temperature
    )
    done = _resume(agent, policy, cfg, out) if cfg.resume else 0
    log.info("%s", _summary(cfg, policy, accelerator, lr, tokens))
    log.info("first prompt, as the model sees it: %r", _first_prompt(train_env, policy))
    sampling = Decoding(max_new_tokens=tokens, temperature=cfg.sampler.temperature)
    greedy = Decoding(max_new_tokens=tokens, temperature=0.0)
    return Trainer(
        cfg=cfg.trainer,
        seed=cfg.seed,
        agent=agent,
        rollout=Rollout(train_env, policy, sampling, cfg.seed, accelerator.autocast),
        eval_rollout=Rollout(eval_env, policy, greedy, cfg.seed, accelerator.autocast),
        max_reward=train_env.env.reward_range[1],
        eval_problems=eval_problems,
        loggers=[LOGGERS[name](out, cfg.trainer.steps, done) for name in cfg.logger.names],
        checkpoints=Checkpoints(out),
        decisive=cfg.decisive(),
        done=done,
    )


def make_envs(cfg: RunConfig) -> tuple[GroupVectorEnv, GroupVectorEnv, int]:
    """Return the training and evaluation environments and how many problems to evaluate on."""
    name, keywords = cfg.env["name"], cfg.env_keywords
    if "split" in keywords:
        raise ConfigError("env.split is set by the run: train to train on, eval to evaluate on.")
    size = cfg.agent.group_size
    train = plugins.make_groups(name, cfg.trainer.prompts_per_step * size, size, **keywords)
    held_out = plugins.make(name, split="eval", **keywords)
    problems = cfg.trainer.eval_problems
    if held_out.rows is not None:
        problems = min(problems, held_out.rows.count("eval"))
    return train, GroupVectorEnv(held_out, max(1, problems)), problems


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
    return Accelerator(cpu=cpu, mixed_precision="bf16" if bf16 else "no")


def _resume(agent: object, policy: Policy, cfg: RunConfig, out: Path) -> int:
    step, folder, state = Checkpoints(out).load(cfg.decisive())
    trained = load_policy(str(folder))
    policy.model.load_state_dict(trained.model.state_dict())
    agent.load_state_dict(state["agent"])  # type: ignore[attr-defined]
    log.info("resuming %s after step %d", out, step)
    return step


def _summary(
    cfg: RunConfig, policy: Policy, accelerator: Accelerator, lr: float, tokens: int
) -> str:
    millions = sum(p.numel() for p in policy.model.parameters()) / 1e6
    trainer, agent = cfg.trainer, cfg.agent
    return (
        f"{millions:.1f} M parameters on {accelerator.device.type}, "
        f"{accelerator.mixed_precision.replace('no', 'fp32')}; {trainer.steps} steps of "
        f"{trainer.prompts_per_step} prompts x {agent.group_size} completions of at most {tokens} "
        f"tokens; lr {lr:g}, beta {agent.loss.beta:g}"
    )


def _first_prompt(env: GroupVectorEnv, policy: Policy) -> str:
    ids = policy.render(env.env.problem(0).prompt, env.system_prompt)
    return str(policy.tokenizer.decode(list(ids)))
