"""P problems -> P groups of G sampled and scored completions, through the vector API only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from grpo_envs.env.rewards import summed
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.runtime.timing import Timer
from grpo_envs.seeding import seed_for
from grpo_envs.types import Completion, Group, Reward, Turn
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import sample_groups


@dataclass(slots=True)
class Talk:
    """A member's episode so far, as tokens: what was sampled and what was said in between."""

    prompt_ids: tuple[int, ...]
    answer: Completion
    """The last one."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    rewards: list[Reward] = field(default_factory=list)
    cut: bool = False
    """Whether another turn would not fit into the model's context."""

    def __post_init__(self) -> None:
        """Begin with the first answer."""
        self.answered(self.answer)

    def answered(self, answer: Completion) -> None:
        """Take down what the policy said."""
        self.answer = answer
        self._add(answer.token_ids, answer.logprobs, chosen=True)

    def graded(self, observation: str, reward: Reward) -> None:
        """Take down what the environment made of it."""
        turn = Turn(action=self.answer.text, observation=observation, reward=reward.total)
        self.turns.append(turn)
        self.rewards.append(reward)

    def told(self, token_ids: tuple[int, ...]) -> None:
        """Take down what the policy answers next, which it did not choose."""
        self._add(token_ids, (0.0,) * len(token_ids), chosen=False)

    def context(self) -> tuple[int, ...]:
        """Return all tokens so far."""
        return (*self.prompt_ids, *self.token_ids)

    def completion(self, policy: Policy) -> Completion:
        """Return the whole of it; an episode of one turn as it was sampled."""
        if len(self.turns) == 1 and not self.cut:
            return self.answer
        return Completion(
            text=policy.decode(tuple(self.token_ids)),
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            mask=tuple(self.mask),
            finish_reason="length" if self.cut else self.answer.finish_reason,
            turns=tuple(self.turns),
        )

    def reward(self) -> Reward:
        """Return the sum over the turns, part by part; not valid where one of them is not."""
        return summed(self.rewards)

    def _add(self, token_ids: Sequence[int], logprobs: Sequence[float], *, chosen: bool) -> None:
        self.token_ids += token_ids
        self.logprobs += logprobs
        self.mask += [chosen] * len(token_ids)


@dataclass(slots=True)
class Rollout:
    """Plays an episode with the policy in each member of a vector environment."""

    env: GroupVectorEnv
    policy: Policy
    decoding: Decoding
    seed: int
    """Of the run; with a problem's seed and a member's number it decides the member's noise."""
    dtype: torch.dtype | None = None
    """What the weights are held in while sampling; None: as they are."""
    batch_size: int = 256
    """Completions that are sampled at once."""
    tick: Callable[[], None] = lambda: None
    """Called before each token and after grading; what it raises ends the sampling."""

    def __call__(self, seeds: Sequence[int], timer: Timer) -> list[Group]:
        """Return one group for each problem seed; times `sample` and `score`."""
        size = self.env.group_size
        observations, about = self.env.reset(seed=list(seeds))
        asked = zip(observations[::size], about["system_prompt"][::size], strict=True)
        prompts = [self.policy.render(text, told) for text, told in asked]
        noise = [(key, i) for key in seeds for i in range(size)]
        with timer("sample"):
            seeds_of_noise = [seed_for(self.seed, *place) for place in noise]
            answers = self._sample(prompts, seeds_of_noise, range(len(noise)))
        talks = [Talk(prompts[i // size], answer) for i, answer in enumerate(answers)]
        active = self._step(talks, range(len(talks)), timer)
        while active:
            turn = len(talks[active[0]].turns)
            contexts = [talks[i].context() for i in active]
            with timer("sample"):
                more = [seed_for(self.seed, *noise[i], turn) for i in active]
                answers = self._sample(contexts, more, active)
            for i, answer in zip(active, answers, strict=True):
                talks[i].answered(answer)
            active = self._step(talks, active, timer)
        return [
            Group(
                key=seed,
                prompt=observations[p * size],
                prompt_ids=prompts[p],
                completions=tuple(talk.completion(self.policy) for talk in members),
                rewards=tuple(talk.reward() for talk in members),
                meta=about["meta"][p * size],
            )
            for p, seed in enumerate(seeds)
            if (members := talks[p * size : (p + 1) * size])
        ]

    def _sample(
        self, prompts: Sequence[tuple[int, ...]], noise: Sequence[int], members: Sequence[int]
    ) -> list[Completion]:
        """Sample as many completions of each prompt as there are seeds of noise for it.

        Those of `members`; the environment may grade them as soon as all of a prompt are there.
        """
        copies = len(noise) // len(prompts)
        step = max(1, self.batch_size // copies)
        order = sorted(range(len(prompts)), key=lambda p: len(prompts[p]))  # little padding
        completions: dict[int, list[Completion]] = {}
        with self.policy.weights_in(self.dtype) if self.dtype else nullcontext():
            for start in range(0, len(prompts), step):
                part = order[start : start + step]
                seeds = [seed for p in part for seed in noise[p * copies : (p + 1) * copies]]
                asked = [prompts[p] for p in part]
                for i, found in sample_groups(
                    self.policy, asked, seeds, self.decoding, tick=self.tick
                ):
                    p = part[i]
                    completions[p] = found
                    own = members[p * copies : (p + 1) * copies]
                    self.env.score_ahead({m: c.text for m, c in zip(own, found, strict=True)})
        return [completion for p in range(len(prompts)) for completion in completions[p]]

    def _step(self, talks: Sequence[Talk], active: Sequence[int], timer: Timer) -> list[int]:
        """Give the last answers to the environment; return the members whose episodes go on."""
        actions = [""] * len(talks)
        for i in active:
            actions[i] = talks[i].answer.text
        with timer("score"):
            told, _, terminated, truncated, infos = self.env.step(actions)
        timer.add("score_hidden", self.env.hidden_seconds)
        self.tick()  # what ends the run may have ended its graders, too
        for i in active:
            talks[i].graded(told[i], self._reward(infos, i))
        over = terminated | truncated
        return [i for i in active if not over[i] and self._goes_on(talks[i], told[i])]

    def _goes_on(self, talk: Talk, told: str) -> bool:
        """Put what was told into the context, unless another turn would not fit into it."""
        tokens = self.policy.follow_up(told, ended=talk.answer.finish_reason == "stop")
        needed = len(talk.context()) + len(tokens) + self.decoding.max_new_tokens
        talk.cut = needed > self.policy.context_length
        if not talk.cut:
            talk.told(tokens)
        return not talk.cut

    def _reward(self, infos: Mapping[str, Any], i: int) -> Reward:
        if not infos["reward_valid"][i]:
            return Reward(valid=False, error=str(infos["detail"][i]))
        keys = {name: f"reward/{name}" for name in self.env.weights}
        there = {name: key for name, key in keys.items() if key in infos and infos[f"_{key}"][i]}
        parts = {name: float(infos[key][i]) for name, key in there.items()}
        return Reward(parts=parts, weights=self.env.weights)
