"""The log lines before the first step."""

from __future__ import annotations

import logging

from grpo_envs.config.schema import RunConfig
from grpo_envs.training.agent import Agent, Parts
from grpo_policy.masters import dtype_name
from grpo_policy.room import Room

log = logging.getLogger(__name__)


def log_start(cfg: RunConfig, parts: Parts, agent: Agent, room: Room) -> None:
    """Log the model, the main numbers and the first prompt."""
    log.info("%s; %s", _summary(cfg, parts), agent.describe())
    if remarks := cfg.agent.remarks():
        log.info(" ".join(remarks))
    chat, first = parts.policy.chat, room.find(0)
    log.info("first prompt, as the model sees it: %r", chat.text(room.render(first)))


def _summary(cfg: RunConfig, parts: Parts) -> str:
    policy, accelerator = parts.policy, parts.accelerator
    millions = policy.size / 1e6
    adapters = sum(p.numel() for p in policy.trained_parameters()) / 1e6
    trained = f", {adapters:.2f} M of them trained (LoRA)," if policy.has_adapters else ""
    count = accelerator.num_processes
    full = cfg.trainer.shard == "full"
    sharded = f", {'weights, too, ' if full else ''}sharded" if accelerator.is_fsdp2 else ""
    processes = f" in {count} processes{sharded}" if count > 1 else ""
    return (
        f"{millions:.1f} M parameters{trained} on {accelerator.device.type}{processes}, "
        f"{dtype_name(policy.dtype)}; {cfg.trainer.steps} steps of "
        f"{cfg.trainer.prompts_per_step} prompts x {cfg.agent.group_size} completions of at most "
        f"{parts.decoding.max_new_tokens} tokens"
    )
