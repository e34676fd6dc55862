"""The entry point `torch`: the sampler that uses the trained model itself."""

from __future__ import annotations

import logging
from typing import ClassVar

from grpo_envs.config.model import SamplerConfig
from grpo_policy.samplers.protocol import Sampler, SamplerParts

log = logging.getLogger(__name__)


class Torch:
    """The sampler's keys and its constructor."""

    Config: ClassVar[type[SamplerConfig]] = SamplerConfig
    ahead: ClassVar[bool] = True
    decodes: ClassVar[tuple[str, ...]] = (
        *("top_p", "top_k", "min_p", "repetition_penalty", "stop", "thinking_budget"),
    )

    @classmethod
    def make(cls, cfg: SamplerConfig, parts: SamplerParts) -> Sampler:
        """Return a sampler with weights in `cfg.precision`.

        If it samples while the policy is updated, it is a process with its own weights.
        """
        # Imported here because they import torch, and `--help` reads `Config`.
        from grpo_policy.masters import DTYPES
        from grpo_policy.samplers.fixed import Fixing
        from grpo_policy.samplers.torch import TorchSampler

        dtype = DTYPES.get(cfg.precision)  # auto: None, the dtype of the weights
        fixing = None if cfg.capture == "auto" else Fixing()
        if parts.ahead:
            from grpo_policy.samplers.process import SamplerProcess

            log.info("trainer.lag: the model samples in a process of its own, from a copy.")
            return SamplerProcess(parts.policy, dtype, batch_tokens=cfg.batch_tokens, fixing=fixing)
        return TorchSampler(parts.policy, dtype, batch_tokens=cfg.batch_tokens, fixing=fixing)
