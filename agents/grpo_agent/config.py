"""Every number of the agent, with its default. No torch here: `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

from grpo_agent.loss_options import check_options
from grpo_agent.mechanisms import ADVANTAGE, OBJECTIVE, check, require_known
from grpo_agent.remarks import remarks
from grpo_agent.reward_config import AdvantageConfig, OverlongConfig, check_parts
from grpo_agent.turns import flat_turns
from grpo_envs.config.scheduled import Scheduled, changing, largest, scheduled, value_at
from grpo_envs.errors import ConfigError, require, require_one_of
from grpo_policy.learning import LearningConfig

if TYPE_CHECKING:
    from grpo_envs.config.schema import RunConfig
    from grpo_envs.types import Group

__all__ = ["AdvantageConfig", "GrpoConfig", "LossConfig", "OverlongConfig", "PolicyGradientConfig"]
RATIOS = ("token", "sequence", "sequence_product")
KLS = ("k1", "k2", "k3", "k3_ratio")
KL_PLACES = ("loss", "reward")
AGGREGATES = ("sequence_mean", "token_mean", "fixed_length", "sequence_sum")
CORRECTIONS = ("auto", "none", "truncate", "mask", "sequence_mask")


@dataclass(kw_only=True, slots=True)
class LossConfig:
    """Knobs of `policy_loss`: ratio, objective, KL and aggregation are independent choices."""

    ratio: str = "token"
    """What is importance-weighted: token (GRPO), sequence (GSPO: mean log ratio of the
    completion), sequence_product (RLOO: product over the completion)."""
    objective: str = "clipped"
    """clipped (PPO), cispo (clipped weight, gradient of every token), sapo (soft gate), gmpo
    (geometric mean), clip_cov, kl_cov (tokens of high covariance apart), dppo_tv, dppo_kl (trust
    region), vespo (soft weight of a completion), one of an installed package, or
    package.module:function."""
    clip_low: Scheduled = 0.2
    """The objective's bound below: 1 - clip_low of a ratio. Or a schedule."""
    clip_high: Scheduled = 0.2
    """The objective's bound above: 1 + clip_high of a ratio. Or a schedule."""
    dual_clip: float | None = None
    """clipped: where the advantage is negative, the loss is at most dual_clip * -A (3 is usual)."""
    top_entropy: float = 1.0
    """Share of an update's tokens, those of the highest entropy before the step, at which the
    objective counts (0.2 in "Beyond the 80/20 rule"); below 1 it takes one more forward pass."""
    beta: Scheduled = 0.04
    """Weight of the KL to the reference; 0: none. Or a schedule."""
    kl: str = "k3"
    """Estimator of KL(policy || reference): k1 (reward only), k2, k3 (GRPO), k3_ratio."""
    kl_in: str = "loss"
    """Where the penalty goes: loss (each token's) or reward (its sum over a completion)."""
    entropy: Scheduled = 0.0
    """Weight of a bonus for the entropy of the policy at each token, or a schedule; the first
    weight with entropy_target."""
    entropy_target: float | None = None
    """Entropy [nats per token] below which the weight grows and the bonus counts; above it the
    weight shrinks and the bonus is left out (Skywork-OR1). null: the weight never changes."""
    entropy_step: float = 1e-4
    """entropy_target: what a step adds to the weight, or takes away."""
    entropy_max: float = 5e-3
    """entropy_target: the largest weight."""
    aggregate: str = "sequence_mean"
    """How token losses become one number: sequence_mean (GRPO: mean of each completion, then over
    completions), token_mean (DAPO: over all tokens), fixed_length (Dr. GRPO: the sum, divided by
    completions * sampler.max_new_tokens), sequence_sum (LUSPO: the sum, divided by completions)."""
    correction: str = "auto"
    """Weights for tokens that the sampler drew with another arithmetic than the trainer's, or with
    older weights: none, truncate (TIS), mask (IcePop), sequence_mask (MIS). auto: none where the
    trained model itself samples in float32 and trainer.lag is 0, else truncate; see losses.py."""
    correction_cap: float = 2.0
    """The largest weight: truncate cuts what is above, the masks drop what is above it or below
    its inverse."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the objective. cispo: cap (5; the largest weight of a ratio: absolute, 1 is no change of
    the policy). sapo: tau_positive, tau_negative (1, 1.05; temperature of the gate by the sign of
    the advantage). vespo: k_positive, lambda_positive (2, 3), k_negative, lambda_negative (3, 2;
    power of the completion's ratio, and how fast its weight falls). clip_cov: share (2e-4; of an
    update's tokens, that is treated apart), low, high (1, 5; the covariances of these tokens).
    kl_cov: share, penalty (1; weight of |log ratio| at them). An objective of another
    package: its keyword arguments."""

    def __post_init__(self) -> None:
        """Check names, ranges and combinations."""
        require_one_of("agent.loss.ratio", self.ratio, RATIOS)
        require_known(OBJECTIVE, self.objective)
        require_one_of("agent.loss.kl", self.kl, KLS)
        require_one_of("agent.loss.kl_in", self.kl_in, KL_PLACES)
        require_one_of("agent.loss.aggregate", self.aggregate, AGGREGATES)
        for name in ("clip_low", "clip_high", "beta", "entropy"):
            high, said = (1.0, "0 to 1") if name == "clip_low" else (inf, "0 or more")
            value = scheduled(f"agent.loss.{name}", getattr(self, name), said, high=high)
            setattr(self, name, value)
        dual = self.dual_clip
        require(dual is None or dual > 1, "agent.loss.dual_clip", dual, "above 1, or null")
        require_one_of("agent.loss.correction", self.correction, CORRECTIONS)
        cap = self.correction_cap
        require(cap >= 1, "agent.loss.correction_cap", cap, "1 or more")
        check_options(self)
        if self.kl == "k1" and self.kl_in == "loss":
            raise ConfigError(
                "agent.loss.kl=k1 with agent.loss.kl_in=loss: the gradient of k1 is 0 in "
                "expectation. Allowed: kl_in=reward, or kl=k2, k3, k3_ratio."
            )
        if self.kl == "k3_ratio" and self.kl_in == "reward":
            raise ConfigError(
                "agent.loss.kl=k3_ratio with agent.loss.kl_in=reward: a reward is of the policy "
                "that sampled, its ratio is 1. Allowed: kl_in=loss, or kl=k1, k2, k3."
            )

    def changing(self) -> dict[str, dict[int, float]]:
        """Return the schedules by the names of their keys."""
        return changing(self)

    def at(self, step: int) -> LossConfig:
        """Return the knobs of a step, counted from 1, with numbers in the place of schedules."""
        values: dict[str, Any] = {n: value_at(x, step) for n, x in self.changing().items()}
        return replace(self, **values)


@dataclass(kw_only=True, slots=True)
class PolicyGradientConfig(LearningConfig):
    """What agents share that move the policy by the ratio to what it was before the step."""

    temperature_may_change: ClassVar[bool] = True
    epochs: int = 1
    """Passes over the completions of a step (mu in the paper)."""
    minibatches: int = 1
    """Updates a pass: so many parts of whole groups, one update each."""
    sync_reference_every: int = 0
    """Steps after which the reference moves to the policy; 0: it never changes."""
    sync_reference_decay: float = 0.0
    """What the reference keeps of itself then: reference = decay * reference + (1 - decay) *
    policy; 0 makes it a copy."""
    log_tokens: int = 0
    """Groups of a step, evenly spread, whose tokens go to tokens.jsonl: for `grpo_envs.explain`."""
    loss: LossConfig = field(default_factory=LossConfig)
    overlong: OverlongConfig = field(default_factory=OverlongConfig)

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        LearningConfig.__post_init__(self)  # a class with slots has no super()
        least = {"group_size": 1, "epochs": 1, "minibatches": 1}
        least |= {"sync_reference_every": 0, "log_tokens": 0}
        for name, low in least.items():
            require(
                getattr(self, name) >= low, f"agent.{name}", getattr(self, name), f"{low} or more"
            )
        decay = self.sync_reference_decay
        require(0 <= decay < 1, "agent.sync_reference_decay", decay, "0 or more, below 1")
        if decay and not self.sync_reference_every:
            raise ConfigError(
                f"agent.sync_reference_decay={decay:g} with agent.sync_reference_every=0: the "
                "reference never moves. Allowed: agent.sync_reference_every=1 or more."
            )

    @property
    def reference(self) -> bool:
        """Whether the update compares the policy with a reference, which takes memory."""
        return largest(self.loss.beta) > 0

    def remarks(self) -> list[str]:
        """Return what never acts with these values."""
        return [*remarks(self)]

    def check(self, run: RunConfig) -> None:
        """Refuse what contradicts other keys of the run, and functions that cannot be used.

        Raises:
            ConfigError: one line that names the keys, the values and what is allowed.
            PluginError: the function of an objective cannot be imported.
        """
        LearningConfig.check(self, run)
        check(OBJECTIVE, self.loss.at(1))
        prompts = run.trainer.prompts_per_step
        if self.minibatches > prompts:
            raise ConfigError(
                f"agent.minibatches={self.minibatches} with trainer.prompts_per_step={prompts}: a "
                f"minibatch has at least one group. Allowed: 1 to {prompts}."
            )
        every = f"agent.sync_reference_every={self.sync_reference_every}"
        if self.sync_reference_every and run.model.lora.rank:
            rank = f"model.lora.rank={run.model.lora.rank}"
            raise ConfigError(
                f"{every} with {rank}: the reference is the model itself. Allowed: 0."
            )
        if self.sync_reference_every and not self.reference:
            raise ConfigError(f"{every} with agent.loss.beta=0: there is no reference. Allowed: 0.")


@dataclass(kw_only=True, slots=True)
class GrpoConfig(PolicyGradientConfig):
    """The GRPO agent."""

    main_keys: ClassVar[tuple[str, ...]] = (
        *("group_size", "lr", "epochs", "minibatches", "micro_batch_tokens"),
        *("loss.beta", "loss.clip_low", "loss.clip_high"),
    )
    memory_keys: ClassVar[tuple[str, ...]] = ("agent.loss.beta=0",)
    name: str = "grpo"
    """Entry point of the agent."""
    group_size: int = 8
    """Completions per problem (G)."""
    dynamic_sampling: int = 0
    """Rounds of sampling, at most, that replace groups that teach nothing (DAPO)."""
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    teacher: str | None = None
    """Folder, run or hub id of a frozen model with the same tokens, towards which every token is
    moved (on-policy distillation)."""
    teacher_weight: float = 1.0
    """teacher: what log(teacher / policy) of a token counts in its advantage."""
    reward_weight: float = 1.0
    """teacher: what the advantage from rewards counts; 0: the teacher's alone."""

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        PolicyGradientConfig.__post_init__(self)  # a class with slots has no super()
        check_parts(self.advantage, self.overlong, self.loss.kl_in)
        require(self.teacher_weight > 0, "agent.teacher_weight", self.teacher_weight, "above 0")
        require(self.reward_weight >= 0, "agent.reward_weight", self.reward_weight, "0 or more")
        if self.teacher is None and self.reward_weight != 1:
            raise ConfigError(
                f"agent.reward_weight={self.reward_weight:g} without agent.teacher, which it is "
                "weighed against. Allowed: 1, or agent.teacher=FOLDER."
            )
        if self.group_size == 1:
            raise ConfigError(
                f"agent.group_size=1 with agent.advantage.name={self.advantage.name}: a group of "
                "one has no baseline, every advantage is 0. Allowed: 2 or more (8 is usual)."
            )
        rounds = self.dynamic_sampling
        require(rounds >= 0, "agent.dynamic_sampling", rounds, "0 or more")

    @property
    def resamplings(self) -> int:
        """Rounds of sampling, at most, that replace groups that teach nothing."""
        return self.dynamic_sampling

    def flat(self, group: Group) -> bool:
        """Return whether a group teaches nothing: no teacher, nothing to compare in any turn."""
        return self.teacher is None and all(flat_turns(group, self.advantage))

    def check(self, run: RunConfig) -> None:
        """Refuse what contradicts other keys of the run, and functions that cannot be used.

        Raises:
            ConfigError: one line that names the keys, the values and what is allowed.
            PluginError: the function of an advantage or objective cannot be imported.
        """
        check(ADVANTAGE, self.advantage)
        PolicyGradientConfig.check(self, run)
