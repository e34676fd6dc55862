"""The keys of the agent, with their defaults. Without torch: `--help` reads this module."""

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
    """Settings of `policy_loss`: ratio, objective, KL and aggregation are independent choices."""

    ratio: str = "token"
    """Unit of the importance ratio: token (GRPO), sequence (GSPO: mean log ratio of the
    completion), sequence_product (RLOO: product over the completion)."""
    objective: str = "clipped"
    """clipped (PPO), cispo (clipped weight, gradient of every token), sapo (soft gate), gmpo
    (geometric mean), clip_cov and kl_cov (another loss at tokens of high covariance), dppo_tv and
    dppo_kl (trust region), vespo (soft weight of a completion), an objective of an installed
    package, or package.module:function."""
    clip_low: Scheduled = 0.2
    """The objective's lower bound of a ratio is 1 - clip_low. Or a schedule."""
    clip_high: Scheduled = 0.2
    """The objective's upper bound of a ratio is 1 + clip_high. Or a schedule."""
    dual_clip: float | None = None
    """clipped: where the advantage is negative, the loss is at most dual_clip * -A (3 is usual)."""
    top_entropy: float = 1.0
    """Share of an update's tokens at which the objective counts: those of the highest entropy
    before the step (0.2 in "Beyond the 80/20 rule"). A share below 1 costs one more forward
    pass."""
    beta: Scheduled = 0.04
    """Weight of the KL to the reference; 0: none. Or a schedule."""
    kl: str = "k3"
    """Estimator of KL(policy || reference): k1 (reward only), k2, k3 (GRPO), k3_ratio."""
    kl_in: str = "loss"
    """Where the penalty goes: loss (of each token) or reward (the sum over a completion)."""
    entropy: Scheduled = 0.0
    """Weight of a bonus for the entropy of the policy at each token, or a schedule. With
    entropy_target: the initial weight."""
    entropy_target: float | None = None
    """Entropy [nats per token] below which the weight grows and the bonus counts; from there up
    the weight shrinks and the bonus is left out (Skywork-OR1). null: the weight never changes."""
    entropy_step: float = 1e-4
    """entropy_target: the change of the weight in one step."""
    entropy_max: float = 5e-3
    """entropy_target: the largest weight."""
    aggregate: str = "sequence_mean"
    """How token losses become one number: sequence_mean (GRPO: mean of each completion, then over
    completions), token_mean (DAPO: over all tokens), fixed_length (Dr. GRPO: the sum, divided by
    completions * sampler.max_new_tokens), sequence_sum (LUSPO: the sum, divided by completions)."""
    correction: str = "auto"
    """Importance weights for tokens that were sampled in another arithmetic than the trainer's, or
    with older weights: none, truncate (TIS), mask (IcePop), sequence_mask (MIS). auto: none if the
    trained model itself samples in float32 and trainer.lag is 0, else truncate; see
    losses/corrections.py."""
    correction_cap: float = 2.0
    """The largest weight: truncate lowers larger weights to the cap; the masks set weights above
    the cap or below its inverse to 0."""
    options: dict[str, Any] = field(default_factory=dict)
    """Numbers of the objective. cispo: cap (5; the largest ratio, absolute: 1 is an unchanged
    policy). sapo: tau_positive, tau_negative (1, 1.05; temperature of the gate, by the sign of the
    advantage). vespo: k_positive, lambda_positive (2, 3), k_negative, lambda_negative (3, 2; power
    of the completion's ratio, and how fast the weight falls with it). clip_cov: share (2e-4; of an
    update's tokens that are selected, at least one token), low, high (1, 5; bounds of the
    covariance of a selected token). kl_cov: share, penalty (1; weight of |log ratio| at the
    selected tokens). An objective of another package: its keyword arguments."""

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
                "agent.loss.kl=k3_ratio with agent.loss.kl_in=reward: a reward belongs to the "
                "policy that sampled, so the ratio is 1. Allowed: kl_in=loss, or kl=k1, k2, k3."
            )

    def changing(self) -> dict[str, dict[int, float]]:
        """Return the schedules by the names of their keys."""
        return changing(self)

    def at(self, step: int) -> LossConfig:
        """Return the settings of a step, counted from 1, with numbers in place of schedules."""
        values: dict[str, Any] = {n: value_at(x, step) for n, x in self.changing().items()}
        return replace(self, **values)


@dataclass(kw_only=True, slots=True)
class PolicyGradientConfig(LearningConfig):
    """Keys of the agents whose loss has the ratio of the policy to the policy before the step."""

    temperature_may_change: ClassVar[bool] = True
    epochs: int = 1
    """Passes over the completions of a step (mu in the paper)."""
    minibatches: int = 1
    """Updates per pass: the groups of the step are split into this many parts."""
    sync_reference_every: int = 0
    """Steps between two updates of the reference; 0: the reference never changes."""
    sync_reference_decay: float = 0.0
    """Such an update sets reference = decay * reference + (1 - decay) * policy; 0: a copy of the
    policy."""
    log_tokens: int = 0
    """Groups of a step, evenly spaced, whose tokens go to tokens.jsonl: for `grpo_envs.explain`."""
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
        """Return a line for each setting that has no effect with these values."""
        return [*remarks(self)]

    def check(self, run: RunConfig) -> None:
        """Refuse keys that contradict other keys of the run, and functions that cannot be used.

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
                f"{every} with {rank}: the reference is the model without its adapters. Allowed: 0."
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
    """The most rounds of sampling that replace zero-variance groups, all of whose rewards are equal
    (DAPO)."""
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    teacher: str | None = None
    """Folder, run or hub id of a frozen model with the same tokens; the policy learns to give each
    sampled token the teacher's probability (on-policy distillation)."""
    teacher_weight: float = 1.0
    """teacher: weight of log(teacher / policy) in the advantage of a token."""
    reward_weight: float = 1.0
    """teacher: weight of the advantage from rewards; 0: the teacher's advantage alone."""

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        PolicyGradientConfig.__post_init__(self)  # a class with slots has no super()
        check_parts(self.advantage, self.overlong, self.loss.kl_in)
        require(self.teacher_weight > 0, "agent.teacher_weight", self.teacher_weight, "above 0")
        require(self.reward_weight >= 0, "agent.reward_weight", self.reward_weight, "0 or more")
        if self.teacher is None and self.reward_weight != 1:
            raise ConfigError(
                f"agent.reward_weight={self.reward_weight:g} without agent.teacher: there is no "
                "other advantage to weigh. Allowed: 1, or agent.teacher=FOLDER."
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
        """The most rounds of sampling that replace zero-variance groups."""
        return self.dynamic_sampling

    def flat(self, group: Group) -> bool:
        """Return whether all advantages are 0: no teacher, and equal rewards in every turn."""
        return self.teacher is None and all(flat_turns(group, self.advantage))

    def check(self, run: RunConfig) -> None:
        """Refuse keys that contradict other keys of the run, and functions that cannot be used.

        Raises:
            ConfigError: one line that names the keys, the values and what is allowed.
            PluginError: the function of an advantage or objective cannot be imported.
        """
        check(ADVANTAGE, self.advantage)
        PolicyGradientConfig.check(self, run)
