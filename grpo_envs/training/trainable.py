"""Combinations of keys that cannot be trained are refused before anything is loaded."""

from __future__ import annotations

from grpo_envs.config.schema import RunConfig
from grpo_envs.env.installed import SAMPLERS, available, load
from grpo_envs.errors import ConfigError
from grpo_envs.runtime.processes import ALONE, Processes
from grpo_envs.training.decoding import (
    require_scored_as_sampled,
    require_scored_when_it_changes,
)


def require_trainable(cfg: RunConfig, processes: Processes = ALONE) -> None:
    """Refuse keys that contradict each other.

    Raises:
        ConfigError: one line that names the keys and what is allowed.
    """
    require_scored_as_sampled(cfg)
    require_scored_when_it_changes(cfg)
    if cfg.trainer.lag and processes.count > 1:
        raise ConfigError(
            f"trainer.lag={cfg.trainer.lag} in a run of {processes.count} processes. Allowed: "
            "trainer.lag=0, or a run of one process."
        )
    if cfg.model.quantization and not cfg.model.lora.rank:
        raise ConfigError(
            f"model.quantization={cfg.model.quantization} with model.lora.rank=0: quantised "
            "weights are not trained. Allowed: with model.lora.rank above 0."
        )
    if cfg.trainer.shard == "full":
        _require_shared_out(cfg)


def _require_shared_out(cfg: RunConfig) -> None:
    """Refuse keys that need whole weights in each process."""
    if samples_itself(cfg.sampler.name):
        others = [name for name in available(SAMPLERS) if not samples_itself(name)]
        engines = ", ".join(f"sampler={name}" for name in others)
        raise ConfigError(
            f"trainer.shard=full with sampler={cfg.sampler.name}, which samples with the weights "
            f"of its process: none has them whole. Allowed: {engines and f'{engines}, or '}"
            "trainer.shard=optimizer."
        )
    if cfg.model.lora.rank:
        raise ConfigError(
            f"trainer.shard=full with model.lora.rank={cfg.model.lora.rank}: adapters are merged "
            "into whole weights. Allowed: model.lora.rank=0, or trainer.shard=optimizer."
        )
    if cfg.trainer.precision == "fp16":
        raise ConfigError(
            "trainer.shard=full with trainer.precision=fp16: gradients are added up between the "
            "processes before their scale is known to be right. Allowed: auto, fp32, bf16, or "
            "trainer.shard=optimizer."
        )


def samples_itself(name: str) -> bool:
    """Return whether the sampler with this entry point samples in the run's own processes."""
    return bool(getattr(load(SAMPLERS, name), "samples_with_policy", True))
