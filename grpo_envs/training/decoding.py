"""How a run samples: from its keys to `Decoding`, for training and for evaluation."""

from __future__ import annotations

from dataclasses import replace

from grpo_envs.config.model import DISTORTIONS
from grpo_envs.config.scheduled import is_schedule, shown, value_at
from grpo_envs.config.schema import RunConfig
from grpo_envs.errors import ConfigError
from grpo_policy.models import hints
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding, SamplerPlugin


def training_decoding(cfg: RunConfig, policy: Policy, step: int = 1) -> Decoding:
    """Return how the completions of a step are sampled; null stands for the model's default."""
    sampler = cfg.sampler
    return Decoding(
        max_new_tokens=sampler.max_new_tokens or hints(policy).max_new_tokens,
        temperature=value_at(sampler.temperature, step),
        stop=tuple(sampler.stop),
        thinking_budget=sampler.thinking_budget,
        **{key: getattr(sampler, key) for key in DISTORTIONS},
    )


def evaluation_decoding(cfg: RunConfig, policy: Policy, temperature: float) -> Decoding:
    """Return how an evaluation samples: as training, except for the keys `trainer.eval_*`."""
    how = training_decoding(cfg, policy)
    tokens = cfg.trainer.eval_max_new_tokens or how.max_new_tokens
    own = cfg.trainer.eval_sampling
    return replace(how, max_new_tokens=tokens, temperature=temperature, **own)


def require_scored_as_sampled(cfg: RunConfig) -> None:
    """Refuse to train on tokens from another distribution than the one that scores them.

    After an update the likeliest tokens differ. A truncation that scoring repeats is then not the
    sampler's truncation, and a token outside of it has no ratio.

    Raises:
        ConfigError: one line that names the keys and what is allowed.
    """
    keys = cfg.sampler.distortions()
    if keys:
        own = ", ".join(key.removeprefix("sampler.").replace("=", ": ") for key in keys)
        raise ConfigError(
            f"{', '.join(keys)} in training: tokens would come from another distribution than the "
            "one that an update scores them under. Allowed: the defaults, and for evaluation "
            f"'trainer.eval_sampling={{{own}}}'."
        )


def require_scored_when_it_changes(cfg: RunConfig) -> None:
    """Refuse a changing temperature with an agent that scores all steps at the first one.

    Raises:
        ConfigError: one line that names the keys and what is allowed.
    """
    if is_schedule(cfg.sampler.temperature) and not cfg.agent.temperature_may_change:
        raise ConfigError(
            f"sampler.temperature={shown(cfg.sampler.temperature)} with agent={cfg.agent.name}, "
            "which scores all steps at one temperature. Allowed: a number."
        )


def require_ahead(cfg: RunConfig, plugin: type[SamplerPlugin]) -> None:
    """Refuse `trainer.lag` with a sampler that cannot sample while the policy is updated.

    Raises:
        ConfigError: one line that says what is allowed.
    """
    if not getattr(plugin, "ahead", False):
        raise ConfigError(
            f"trainer.lag={cfg.trainer.lag}: sampler={cfg.sampler.name} does not sample while the "
            "policy is updated. Allowed: trainer.lag=0."
        )


def require_decoded(cfg: RunConfig, policy: Policy, plugin: type[SamplerPlugin]) -> None:
    """Refuse decoding keys that the sampler or the model does not support.

    Raises:
        ConfigError: one line that names the keys and what is allowed.
    """
    known = getattr(plugin, "decodes", ())
    for how in (training_decoding(cfg, policy), evaluation_decoding(cfg, policy, 1.0)):
        unknown = [key for key in how.extras() if key not in known]
        if unknown:
            raise ConfigError(
                f"sampler={cfg.sampler.name} does not know {', '.join(unknown)}. Allowed: "
                f"{', '.join(('temperature', 'max_new_tokens', *known))}."
            )
    if cfg.sampler.thinking_budget is not None:
        policy.chat.thought_tokens()
