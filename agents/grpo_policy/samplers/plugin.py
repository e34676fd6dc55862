"""The entry point `torch`: the sampler that uses the trained model itself."""

from __future__ import annotations

from typing import ClassVar

from grpo_envs.config.model import SamplerConfig
from grpo_policy.samplers.protocol import Sampler, SamplerParts


class Torch:
    """The sampler's keys, and how it is made."""

    Config: ClassVar[type[SamplerConfig]] = SamplerConfig
    decodes: ClassVar[tuple[str, ...]] = (
        *("top_p", "top_k", "min_p", "repetition_penalty", "stop", "thinking_budget"),
    )

    @classmethod
    def make(cls, cfg: SamplerConfig, parts: SamplerParts) -> Sampler:
        """Return a sampler that holds the weights as `cfg.precision` says while it samples."""
        import torch  # not above: `Config` is read for `--help`

        from grpo_policy.samplers.torch import TorchSampler

        as_update = cfg.precision == "auto" and parts.accelerator.mixed_precision == "bf16"
        low = as_update or cfg.precision == "bf16"
        dtype = torch.bfloat16 if low else None
        return TorchSampler(parts.policy, dtype, batch_tokens=cfg.batch_tokens)
