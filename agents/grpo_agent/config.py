"""Every number of the agent, with its default. No torch here: `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

from grpo_agent.mechanisms import ADVANTAGE, OBJECTIVE, check, require_known
from grpo_agent.turns import EPISODE, TURNS, flat_turns
from grpo_envs.config.scheduled import Scheduled, changing, largest, scheduled, value_at
from grpo_envs.errors import ConfigError, require, require_one_of
from grpo_policy.learning import LearningConfig

if TYPE_CHECKING:
    from grpo_envs.config.schema import RunConfig
    from grpo_envs.types import Group

RATIOS = ("token", "sequence", "sequence_product")
KLS = ("k1", "k2", "k3", "k3_ratio")
KL_PLACES = ("loss", "reward")
AGGREGATES = ("sequence_mean", "token_mean", "fixed_length")
CORRECTIONS = ("auto", "none", "truncate", "mask", "sequence_mask")
TRUNCATIONS = ("score", "mask", "penalise")


@dataclass(kw_only=True, slots=True)
class AdvantageConfig:
    """How rewards of a group become advantages."""

    name: str = "standardized"
    """standardized (GRPO), centered (Dr. GRPO), leave_one_out (RLOO), batch_std (Lite-PPO),
    whitened (REINFORCE++-baseline), max_rl, one of an installed package, or
    package.module:function; see advantages.py."""
    eps: float = 1e-4
    """Added to a standard deviation."""
    ddof: int = 1
    """A std divides by n - ddof: 1 is the unbiased estimate, 0 the population's."""
    turns: str = "episode"
    """What the tokens of a turn are credited with: episode (the reward of the whole conversation),
    discounted (the turn's reward-to-go, compared with those of the members that took it), per_turn
    (its reward, compared in the same way, and then those of the later turns); see turns.py."""
    discount: float = 1.0
    """discounted, per_turn: what the reward of a turn counts in the turn before; with 0 only its
    own."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of an advantage that another package brings."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        require_known(ADVANTAGE, self.name)
        require(self.eps >= 0, "agent.advantage.eps", self.eps, "0 or more")
        require(self.ddof in (0, 1), "agent.advantage.ddof", self.ddof, "0, 1")
        require_one_of("agent.advantage.turns", self.turns, TURNS)
        require(0 <= self.discount <= 1, "agent.advantage.discount", self.discount, "0 to 1")
        if self.turns == EPISODE and self.discount != 1:
            raise ConfigError(
                f"agent.advantage.discount={self.discount:g} with agent.advantage.turns=episode: "
                "turns are not told apart. Allowed: 1, or turns=discounted, per_turn."
            )


@dataclass(kw_only=True, slots=True)
class LossConfig:
    """Knobs of `policy_loss`: ratio, objective, KL and aggregation are independent choices."""

    ratio: str = "token"
    """What is importance-weighted: token (GRPO), sequence (GSPO: mean log ratio of the
    completion), sequence_product (RLOO: product over the completion)."""
    objective: str = "clipped"
    """clipped (PPO), cispo (clipped weight, gradient of every token), sapo (soft gate), one of an
    installed package, or package.module:function."""
    clip_low: Scheduled = 0.2
    """clipped: the ratio is clipped at 1 - clip_low. Or a schedule."""
    clip_high: Scheduled = 0.2
    """clipped: and at 1 + clip_high. Or a schedule."""
    dual_clip: float | None = None
    """clipped: where the advantage is negative, the loss is at most dual_clip * -A (3 is usual)."""
    cispo_cap: float = 5.0
    """cispo: the ratio counts at most this much (absolute: 1 is no change of the policy)."""
    sapo_tau_positive: float = 1.0
    """sapo: temperature of the gate where the advantage is positive."""
    sapo_tau_negative: float = 1.05
    """sapo: temperature of the gate where it is not."""
    beta: Scheduled = 0.04
    """Weight of the KL to the reference; 0: none. Or a schedule."""
    kl: str = "k3"
    """Estimator of KL(policy || reference): k1 (reward only), k2, k3 (GRPO), k3_ratio."""
    kl_in: str = "loss"
    """Where the penalty goes: loss (each token's) or reward (its sum over a completion)."""
    entropy: Scheduled = 0.0
    """Weight of a bonus for the entropy of the policy at each token. Or a schedule."""
    aggregate: str = "sequence_mean"
    """How token losses become one number: sequence_mean (GRPO: mean of each completion, then over
    completions), token_mean (DAPO: over all tokens), fixed_length (Dr. GRPO: the sum, divided by
    completions * sampler.max_new_tokens)."""
    correction: str = "auto"
    """Weights for tokens that the sampler drew with another arithmetic than the trainer's, or with
    older weights: none, truncate (TIS), mask (IcePop), sequence_mask (MIS). auto: none where the
    trained model itself samples in float32 and trainer.lag is 0, else truncate; see losses.py."""
    correction_cap: float = 2.0
    """The largest weight: truncate cuts what is above, the masks drop what is above it or below
    its inverse."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of an objective that another package brings."""

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
        require(self.cispo_cap >= 1, "agent.loss.cispo_cap", self.cispo_cap, "1 or more: absolute")
        for name in ("sapo_tau_positive", "sapo_tau_negative"):
            require(getattr(self, name) > 0, f"agent.loss.{name}", getattr(self, name), "above 0")
        require_one_of("agent.loss.correction", self.correction, CORRECTIONS)
        cap = self.correction_cap
        require(cap >= 1, "agent.loss.correction_cap", cap, "1 or more")
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
class OverlongConfig:
    """What becomes of completions that run out of tokens, or nearly do."""

    truncated: str = "score"
    """score: rewarded like any other; mask: out of the loss; penalise: `penalty` is subtracted."""
    in_baseline: bool = True
    """mask: whether truncated completions count in their group's mean and std."""
    penalty: float = 1.0
    """What is subtracted from the reward: of a truncated completion (penalise), and at the end
    of the buffer."""
    buffer: float = 0.0
    """DAPO's soft penalty: it rises from 0 to `penalty` over this last share of
    sampler.max_new_tokens. 0: none; the paper has 0.2."""

    def __post_init__(self) -> None:
        """Check names, ranges and combinations."""
        require_one_of("agent.overlong.truncated", self.truncated, TRUNCATIONS)
        require(0 <= self.buffer <= 1, "agent.overlong.buffer", self.buffer, "0 to 1")
        require(self.penalty >= 0, "agent.overlong.penalty", self.penalty, "0 or more")
        if self.truncated == "penalise" and self.buffer > 0:
            raise ConfigError(
                "agent.overlong.truncated=penalise with agent.overlong.buffer="
                f"{self.buffer:g}: a truncated completion would pay twice. Allowed: one of them."
            )
        if not self.in_baseline and self.truncated != "mask":
            raise ConfigError(
                "agent.overlong.in_baseline=false with agent.overlong.truncated="
                f"{self.truncated}: a completion in the loss is in its baseline. Allowed: "
                "truncated=mask."
            )


@dataclass(kw_only=True, slots=True)
class PolicyGradientConfig(LearningConfig):
    """What agents share that move the policy by the ratio to what it was before the step."""

    temperature_may_change: ClassVar[bool] = True
    epochs: int = 1
    """Passes over the completions of a step (mu in the paper)."""
    minibatches: int = 1
    """Updates a pass: so many parts of whole groups, one update each."""
    sync_reference_every: int = 0
    """Steps after which the reference becomes a copy of the policy; 0: it never changes."""
    loss: LossConfig = field(default_factory=LossConfig)
    overlong: OverlongConfig = field(default_factory=OverlongConfig)

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        LearningConfig.__post_init__(self)  # a class with slots has no super()
        least = {"group_size": 1, "epochs": 1, "minibatches": 1, "sync_reference_every": 0}
        for name, low in least.items():
            require(
                getattr(self, name) >= low, f"agent.{name}", getattr(self, name), f"{low} or more"
            )

    @property
    def reference(self) -> bool:
        """Whether the update compares the policy with a reference, which takes memory."""
        return largest(self.loss.beta) > 0

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

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        PolicyGradientConfig.__post_init__(self)
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
        """Return whether there is nothing to compare in a group, in any turn of it."""
        return all(flat_turns(group, self.advantage))

    def check(self, run: RunConfig) -> None:
        """Refuse what contradicts other keys of the run, and functions that cannot be used.

        Raises:
            ConfigError: one line that names the keys, the values and what is allowed.
            PluginError: the function of an advantage or objective cannot be imported.
        """
        check(ADVANTAGE, self.advantage)
        PolicyGradientConfig.check(self, run)
