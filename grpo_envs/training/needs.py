"""The device memory that a run will need, from its keys alone: without weights or a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from grpo_envs.config.schema import RunConfig
from grpo_envs.runtime.memory import memory_metrics
from grpo_envs.training.decoding import training_decoding
from grpo_envs.training.precision import precision_name
from grpo_envs.training.trainable import samples_itself
from grpo_policy.fake_policy import fake_policy
from grpo_policy.footprint import MOMENTS, MOMENTS_8BIT, Footprint, Job, Part, footprint
from grpo_policy.learner import LearnerSettings
from grpo_policy.masters import DTYPES
from grpo_policy.models import load_config, resolve
from grpo_policy.pace import Pace, Speed, pace
from grpo_policy.policy import Policy
from grpo_policy.scorers import reward_model_parts, teacher_part
from grpo_policy.shapes import config_of

SPEED = Speed(flops=300e12, bandwidth=2e12)
"""Assumed rates of a GPU: a third of the operations and 60 % of the bandwidth in an H100's data
sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The memory of a run, and the model and device that it applies to."""

    model: str
    precision: str
    device: str
    memory: float | None
    """Bytes [B] of the device; None if unknown."""
    found: Footprint
    pace: Pace | None
    """The pace of GPUs that sample for others that train; None if the same GPUs do both."""


def needs(
    cfg: RunConfig,
    *,
    prompt: int,
    shards: int = 1,
    memory: float | None = None,
    answer: int | None = None,
    speed: Speed = SPEED,
) -> Needs:
    """Return what a run needs of a GPU, or of the CPU with `trainer.device=cpu`.

    Args:
        cfg: The configuration.
        prompt: Tokens of a prompt, which are not known before the run.
        shards: Processes that share masters and moments (FSDP), or all of it (`trainer.shard`).
        memory: Bytes [B] of the device; None: those of this machine's device.
        answer: Mean tokens of an answer; None: the largest number.
        speed: Rates of a GPU, for the number of GPUs that sample.

    Raises:
        ConfigError: the model is unknown; one line that says what is allowed.
    """
    device = "cpu" if cfg.trainer.device == "cpu" else "cuda"
    model = resolve(cfg.model, torch.device(device))
    memory = _memory_here(device) if memory is None else memory
    precision = precision_name(cfg.trainer, device)
    # The sizes of Qwen are in a table of ours, so the hub is not needed.
    config = config_of(model.size) if model.size else load_config(model.path, cfg.model)
    others = tuple(_others(cfg, device, DTYPES[precision], shards))
    with fake_policy(config, cfg.model, DTYPES[precision]) as policy:
        job = _job(cfg, policy, device, prompt)
        job = replace(job, shards=shards, memory=memory, others=others)
        found = footprint(policy, job)
        steps = (
            None
            if not job.engine
            else pace(
                policy,
                replace(job, answer=min(answer or job.answer, job.answer)),
                speed,
                passes=getattr(cfg.agent, "epochs", 1),
                at_once=getattr(cfg.sampler, "in_flight", job.completions),
            )
        )
    return Needs(
        model=model.name, precision=precision, device=device, memory=memory, found=found, pace=steps
    )


def _job(cfg: RunConfig, policy: Policy, device: str, prompt: int) -> Job:
    """Return the job that the keys of a run describe."""
    return Job(
        device=device,
        prompt=prompt,
        sampled_in=DTYPES.get(cfg.sampler.precision, policy.model.dtype),
        answer=training_decoding(cfg, policy).max_new_tokens,
        micro_batch_tokens=int(
            getattr(cfg.agent, "micro_batch_tokens", LearnerSettings(lr=0).micro_batch_tokens)
        ),
        group_size=cfg.agent.group_size,
        completions=cfg.agent.group_size * cfg.trainer.prompts_per_step,
        batch_tokens=cfg.sampler.batch_tokens,
        reference=cfg.agent.reference,
        average=bool(getattr(cfg.agent, "sync_reference_decay", 0.0)),
        critic=cfg.agent.critic_body == "own",
        quantized=cfg.model.quantization is not None,
        moments=MOMENTS_8BIT if _in_eight_bits(cfg) else MOMENTS,
        full=cfg.trainer.shard == "full",
        engine=not samples_itself(cfg.sampler.name),
        lag=cfg.trainer.lag,
    )


def _others(cfg: RunConfig, device: str, dtype: torch.dtype, shards: int) -> Iterator[Part]:
    """Yield the models beside the policy that only score."""
    if teacher := getattr(cfg.agent, "teacher", None):
        yield teacher_part(teacher, dtype, shards if cfg.trainer.shard == "full" else 1)
    yield from reward_model_parts(cfg.env, device)


def _in_eight_bits(cfg: RunConfig) -> bool:
    return str(getattr(cfg.agent, "optimizer", "")).endswith("8bit")


def _memory_here(device: str) -> float | None:
    if device == "cuda":
        here = torch.cuda.is_available()
        return float(torch.cuda.get_device_properties(0).total_memory) if here else None
    left = memory_metrics().get("memory/left")
    return None if left is None else left * 2**20
