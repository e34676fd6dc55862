"""Samplers: the protocol, and a sampler that uses the trained model itself."""

from grpo_policy.samplers.protocol import (
    Decoding,
    Sampler,
    SamplerParts,
    SamplerPlugin,
    require_sampler,
)

__all__ = ["Decoding", "Sampler", "SamplerParts", "SamplerPlugin", "require_sampler"]
