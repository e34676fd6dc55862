"""The keys that turn rewards into advantages, with their defaults. Without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from grpo_agent.mechanisms import ADVANTAGE, require_known
from grpo_agent.turns import EPISODE, TURNS
from grpo_envs.errors import ConfigError, require, require_one_of

TRUNCATIONS = ("score", "mask", "penalise")
BY_PARTS = "gdpo"
"""The advantage that uses the parts of rewards instead of their totals."""


@dataclass(kw_only=True, slots=True)
class AdvantageConfig:
    """How rewards of a group become advantages."""

    name: str = "standardized"
    """standardized (GRPO), centered (Dr. GRPO), leave_one_out (RLOO), batch_std (Lite-PPO),
    whitened (REINFORCE++-baseline), max_rl, gdpo (GDPO: each part of the reward separately), a rule
    of an installed package, or package.module:function; see advantages.py."""
    eps: float = 1e-4
    """Added to a standard deviation."""
    ddof: int = 1
    """A variance divides by n - ddof: 1 gives the unbiased estimate, 0 the population's."""
    turns: str = "episode"
    """Credit of the tokens of a turn: episode (the reward of the whole conversation), discounted
    (the turn's reward-to-go, compared with that of the members that took the turn), per_turn (the
    turn's reward, compared in the same way, plus the advantages of later turns); see turns.py."""
    discount: float = 1.0
    """discounted, per_turn: weight of a turn's reward in the turn before; 0: each turn has its own
    reward only."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of an advantage from another package."""

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
                "a whole episode has one advantage. Allowed: 1, or turns=discounted, per_turn."
            )


@dataclass(kw_only=True, slots=True)
class OverlongConfig:
    """How completions that reach the token limit, or nearly reach it, are treated."""

    truncated: str = "score"
    """score: rewarded like any other; mask: left out of the loss; penalise: `penalty` is
    subtracted from the reward."""
    in_baseline: bool = True
    """mask: whether truncated completions count in their group's mean and std."""
    penalty: float = 1.0
    """The penalty of a truncated completion (penalise), and the largest penalty of the buffer."""
    buffer: float = 0.0
    """DAPO's soft penalty rises from 0 to `penalty` over this last share of
    sampler.max_new_tokens. 0: none; the paper has 0.2."""

    def __post_init__(self) -> None:
        """Check names, ranges and combinations."""
        require_one_of("agent.overlong.truncated", self.truncated, TRUNCATIONS)
        require(0 <= self.buffer <= 1, "agent.overlong.buffer", self.buffer, "0 to 1")
        require(self.penalty >= 0, "agent.overlong.penalty", self.penalty, "0 or more")
        if self.truncated == "penalise" and self.buffer > 0:
            raise ConfigError(
                "agent.overlong.truncated=penalise with agent.overlong.buffer="
                f"{self.buffer:g}: a truncated completion would be penalised twice. "
                "Allowed: one of them."
            )
        if not self.in_baseline and self.truncated != "mask":
            raise ConfigError(
                "agent.overlong.in_baseline=false with agent.overlong.truncated="
                f"{self.truncated}: a completion in the loss is in its baseline. Allowed: "
                "truncated=mask."
            )


def check_parts(advantage: AdvantageConfig, overlong: OverlongConfig, kl_in: str) -> None:
    """Refuse settings that an advantage of reward components (gdpo) would ignore.

    Raises:
        ConfigError: one line that names the keys, the values and what is allowed.
    """
    if advantage.name != BY_PARTS:
        return
    said = f"agent.advantage.name={BY_PARTS}"
    instead = "its parts are those of env.rewards alone. Allowed:"
    if advantage.turns != EPISODE:
        raise ConfigError(
            f"agent.advantage.turns={advantage.turns} with {said}, which compares parts of the "
            "whole conversation's reward. Allowed: episode."
        )
    if kl_in == "reward":
        raise ConfigError(f"agent.loss.kl_in=reward with {said}: {instead} kl_in=loss.")
    if overlong.truncated == "penalise":
        allowed = "score, mask, or env.rewards={length: WEIGHT}"
        raise ConfigError(f"agent.overlong.truncated=penalise with {said}: {instead} {allowed}.")
    if overlong.buffer:
        allowed = "0, or env.rewards={length: WEIGHT}"
        raise ConfigError(
            f"agent.overlong.buffer={overlong.buffer:g} with {said}: {instead} {allowed}."
        )
