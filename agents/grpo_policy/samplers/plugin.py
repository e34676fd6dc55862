"""The entry point `torch`: the sampler that uses the trained model itself."""

from grpo_envs.config.model import SamplerConfig


class Torch:
    """The sampler's keys."""

    Config = SamplerConfig
