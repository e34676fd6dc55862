"""The keys of the agent, with their defaults. Without torch: `--help` reads this module."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, ClassVar

from grpo_agent.config import LossConfig, PolicyGradientConfig
from grpo_envs.errors import ConfigError, require, require_one_of
from grpo_envs.runtime import launch

if TYPE_CHECKING:
    from grpo_envs.config.schema import RunConfig
    from grpo_envs.types import Group

BODIES = ("own", "shared")


@dataclass(kw_only=True, slots=True)
class CriticConfig:
    """The network and the loss of the value function."""

    body: str = "own"
    """own: a copy of the policy's body with its own weights (with adapters: its own adapters on the
    same weights); shared: a head on the hidden states of the policy."""
    lr: float | None = None
    """AdamW's peak learning rate of the critic; with a shared body, of the head only. null: ten
    times agent.lr."""
    coef: float = 0.5
    """Weight of the value loss; with a shared body it is added to the policy's loss."""
    clip: float | None = 0.2
    """The most that a value may move from the value before the step before its loss is clipped;
    null: no clip."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        require_one_of("agent.critic.body", self.body, BODIES)
        require(
            self.lr is None or 0 <= self.lr < inf, "agent.critic.lr", self.lr, "0 or more, or null"
        )
        require(self.coef > 0, "agent.critic.coef", self.coef, "above 0")
        clip = self.clip
        require(clip is None or clip > 0, "agent.critic.clip", clip, "above 0, or null")


def _loss() -> LossConfig:
    """Return the usual loss of PPO for language models (arXiv 2203.02155)."""
    return LossConfig(kl="k1", kl_in="reward", aggregate="token_mean")


@dataclass(kw_only=True, slots=True)
class PpoConfig(PolicyGradientConfig):
    """The PPO agent."""

    main_keys: ClassVar[tuple[str, ...]] = (
        *("lr", "epochs", "minibatches", "gamma", "lam", "critic.body", "critic.lr", "loss.beta"),
    )
    memory_keys: ClassVar[tuple[str, ...]] = ("agent.critic.body=shared", "agent.loss.beta=0")
    name: str = "ppo"
    """Entry point of the agent."""
    group_size: int = 1
    """Completions per problem (G); the critic needs no group."""
    minibatches: int = 4
    """Updates per pass: the groups of the step are split into this many parts."""
    gamma: float = 1.0
    """Discount per token of later rewards."""
    lam: float = 0.95
    """lambda of GAE: 1 uses the whole return minus the value, 0 the temporal difference of one
    token."""
    whiten: bool = True
    """Whether advantages get mean 0 and std 1 over all tokens of a step."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    loss: LossConfig = field(default_factory=_loss)

    def __post_init__(self) -> None:
        """Check ranges."""
        PolicyGradientConfig.__post_init__(self)  # a class with slots has no super()
        require(0 <= self.gamma <= 1, "agent.gamma", self.gamma, "0 to 1")
        require(0 <= self.lam <= 1, "agent.lam", self.lam, "0 to 1")

    def flat(self, group: Group) -> bool:
        """Return whether a group has no valid reward: the critic needs no contrast in a group."""
        return not any(reward.valid for reward in group.rewards)

    @property
    def critic_body(self) -> str:
        """The body of the critic, see `AgentConfig`."""
        return self.critic.body

    def check(self, run: RunConfig) -> None:
        """Refuse keys that contradict other keys of the run.

        Raises:
            ConfigError: one line that names the keys, the values and what is allowed.
            PluginError: the function of an objective cannot be imported.
        """
        PolicyGradientConfig.check(self, run)
        shard = run.trainer.shard
        if shard == "full":
            raise ConfigError(
                "trainer.shard=full with agent=ppo: its critic cannot be sharded. Allowed: "
                "trainer.shard=auto, optimizer."
            )
        if self.critic.body == "shared" and (shard != "auto" or launch.shards()):
            raise ConfigError(
                "agent.critic.body=shared in shards: the head has its own optimiser group. "
                "Allowed: agent.critic.body=own, or trainer.shard=auto without FSDP."
            )
