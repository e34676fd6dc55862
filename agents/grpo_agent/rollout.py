"""P problems -> P groups of G sampled and scored completions, through the vector API only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from grpo_agent.policy import Policy
from grpo_agent.sampler import Decoding, sample
from grpo_envs.errors import ConfigError
from grpo_envs.seeding import seed_for
from grpo_envs.timing import Timer
from grpo_envs.types import Completion, Group, Reward
from grpo_envs.vector import GroupVectorEnv


@dataclass(slots=True)
class Rollout:
    """Samples one answer of the policy for each member of a vector environment."""

    env: GroupVectorEnv
    policy: Policy
    decoding: Decoding
    seed: int
    """Of the run; with a problem's seed and a member's number it decides the member's noise."""
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Precision to sample in."""
    batch_size: int = 256
    """Completions that are sampled at once."""

    def __post_init__(self) -> None:
        """Refuse conversations, which this rollout does not hold."""
        if self.env.max_turns > 1:
            raise ConfigError(
                f"env: {self.env.max_turns} turns per episode. Allowed: 1; the agent answers once."
            )

    def __call__(self, seeds: Sequence[int], timer: Timer) -> list[Group]:
        """Return one group for each problem seed; times `sample` and `score`."""
        size = self.env.group_size
        observations, _ = self.env.reset(seed=list(seeds))
        prompts = [
            self.policy.render(text, self.env.system_prompt) for text in observations[::size]
        ]
        with timer("sample"):
            completions = self._sample(prompts, seeds)
        with timer("score"):
            _, _, _, _, infos = self.env.step([c.text for c in completions])
        rewards = [self._reward(infos, i) for i in range(len(completions))]
        return [
            Group(
                key=seed,
                prompt=observations[p * size],
                prompt_ids=prompts[p],
                completions=tuple(completions[p * size : (p + 1) * size]),
                rewards=tuple(rewards[p * size : (p + 1) * size]),
            )
            for p, seed in enumerate(seeds)
        ]

    def _sample(self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int]) -> list[Completion]:
        size = self.env.group_size
        step = max(1, self.batch_size // size)
        completions: list[Completion] = []
        for start in range(0, len(prompts), step):
            part = slice(start, start + step)
            noise = [seed_for(self.seed, key, i) for key in seeds[part] for i in range(size)]
            with self.autocast():
                completions += sample(self.policy, prompts[part], noise, self.decoding)
        return completions

    def _reward(self, infos: Mapping[str, Any], i: int) -> Reward:
        if not infos["reward_valid"][i]:
            return Reward(valid=False, error=str(infos["detail"][i]))
        parts = {name: float(infos[f"reward/{name}"][i]) for name in self.env.weights}
        return Reward(parts=parts, weights=self.env.weights)
