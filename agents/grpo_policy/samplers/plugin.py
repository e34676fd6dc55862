"""The entry point `torch`: the sampler that uses the trained model itself."""

from __future__ import annotations

import logging
from typing import ClassVar

from grpo_envs.config.model import SamplerConfig
from grpo_policy.samplers.protocol import Sampler, SamplerParts

log = logging.getLogger(__name__)


class Torch:
    """The sampler's keys, and how it is made."""

    Config: ClassVar[type[SamplerConfig]] = SamplerConfig
    ahead: ClassVar[bool] = True
    decodes: ClassVar[tuple[str, ...]] = (
        *("top_p", "top_k", "min_p", "repetition_penalty", "stop", "thinking_budget"),
    )

    @classmethod
    def make(cls, cfg: SamplerConfig, parts: SamplerParts) -> Sampler:
        """Return a sampler that holds the weights as `cfg.precision` says while it samples.

        Where it samples while the policy is updated it is a process with weights of its own.
        """
        # Not above: `Config` is read for `--help`, and these import torch.
        from grpo_policy.masters import DTYPES
        from grpo_policy.samplers.fixed import Fixing
        from grpo_policy.samplers.torch import TorchSampler

        dtype = DTYPES.get(cfg.precision)  # auto: as they are
        fixing = None if cfg.capture == "auto" else Fixing()
        if parts.ahead:
            from grpo_policy.samplers.process import SamplerProcess

            log.info("trainer.lag: the model samples in a process of its own, from a copy.")
            return SamplerProcess(parts.policy, dtype, batch_tokens=cfg.batch_tokens, fixing=fixing)
        return TorchSampler(parts.policy, dtype, batch_tokens=cfg.batch_tokens, fixing=fixing)
