"""Rollouts: from P problems to P groups of G sampled and scored completions.

A rollout uses the vector API of environments only, and no weights: a `Sampler` gives the tokens, a
`Chat` the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.runtime.timing import Timer
from grpo_envs.seeding import seed_for
from grpo_envs.types import Completion, Group, Reply, Turn
from grpo_policy.chat import Chat
from grpo_policy.samplers import Decoding, Sampler
from grpo_policy.tools.readers import Tools


@dataclass(slots=True)
class Talk:
    """A member's episode so far, as tokens: the sampled answers and the replies between them."""

    prompt_ids: tuple[int, ...]
    answer: Completion
    """The last answer."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    """Tokens of each answer."""
    starts: list[int] = field(default_factory=list)
    """The position of each answer's first token in `token_ids`."""
    turns: list[Turn] = field(default_factory=list)
    cut: bool = False
    """Whether the episode ended because another turn does not fit into the model's context."""

    def __post_init__(self) -> None:
        """Begin with the first answer."""
        self.answered(self.answer)

    def answered(self, answer: Completion) -> None:
        """Append an answer of the policy."""
        self.answer = answer
        self.starts.append(len(self.token_ids))
        self.lengths.append(len(answer.token_ids))
        self._add(answer.token_ids, answer.logprobs, answer.mask or [True] * self.lengths[-1])

    def graded(self, reply: Reply) -> None:
        """Append the turn that consists of the last answer and the environment's reply."""
        said, reward = reply.observation, reply.reward
        turn = Turn(action=self.answer.text, observation=said, reward=reward.total)
        self.turns.append(replace(turn, note=reward.detail))

    def heard(self, token_ids: tuple[int, ...]) -> None:
        """Append the tokens of a reply, which the policy did not choose and answers next."""
        self._add(token_ids, (0.0,) * len(token_ids), [False] * len(token_ids))

    def context(self) -> tuple[int, ...]:
        """Return all tokens so far."""
        return (*self.prompt_ids, *self.token_ids)

    def completion(self, chat: Chat) -> Completion:
        """Return the whole episode as a completion; an episode of one turn is its answer."""
        if len(self.turns) == 1 and not self.cut:
            return self.answer
        return Completion(
            text=chat.opened(self.prompt_ids) + chat.decode(tuple(self.token_ids)),
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            mask=tuple(self.mask),
            finish_reason="length" if self.cut else self.answer.finish_reason,
            turns=tuple(self.turns),
            turn_lengths=tuple(self.lengths),
            turn_starts=tuple(self.starts),
        )

    def _add(
        self, token_ids: Sequence[int], logprobs: Sequence[float], mask: Sequence[bool]
    ) -> None:
        self.token_ids += token_ids
        self.logprobs += logprobs
        self.mask += mask


@dataclass(slots=True)
class Rollout:
    """Plays an episode in each member of a vector environment, with the answers of a sampler."""

    env: GroupVectorEnv
    chat: Chat
    sampler: Sampler
    decoding: Decoding
    seed: int
    """The run's seed; with a problem's seed and a member's number it seeds the member's noise."""
    tick: Callable[[], None] = lambda: None
    """Called often while sampling and after grading; its exceptions end the rollout."""
    answered: Callable[[int], None] = lambda count: None
    """Called with the number of new answers, whenever there are some."""

    def __call__(self, seeds: Sequence[int], timer: Timer) -> list[Group]:
        """Return one group for each problem seed; `timer` counts `sample` and `score`."""
        try:
            return self._play(seeds, timer)
        finally:
            self.sampler.release()

    def _play(self, seeds: Sequence[int], timer: Timer) -> list[Group]:
        size = self.env.group_size
        observations, about = self.env.reset(seed=list(seeds))
        prompts, tools = self._prompts(observations, about), about["tools"]
        noise = [(key, i) for key in seeds for i in range(size)]
        with timer("sample"):
            seeds_of_noise = [seed_for(self.seed, *place) for place in noise]
            everyone = range(len(noise))
            answers = self._sample(prompts, seeds_of_noise, everyone, tools)
        version = self.sampler.version
        talks = [Talk(prompts[i // size], answer) for i, answer in enumerate(answers)]
        active = self._step(talks, everyone, timer)
        while active:
            turn = len(talks[active[0]].turns)
            contexts = [talks[i].context() for i in active]
            with timer("sample"):
                more = [seed_for(self.seed, *noise[i], turn) for i in active]
                answers = self._sample(contexts, more, active, tools)
            for i, answer in zip(active, answers, strict=True):
                talks[i].answered(answer)
            active = self._step(talks, active, timer)
        with timer("score"):
            rewards = self.env.episode_rewards
        return [
            Group(
                key=seed,
                prompt=observations[p * size],
                prompt_ids=prompts[p],
                completions=tuple(talk.completion(self.chat) for talk in members),
                rewards=tuple(rewards[p * size : (p + 1) * size]),
                meta=about["meta"][p * size],
                gold=self.env.gold(p * size),
                system_prompt=about["system_prompt"][p * size],
                tools=tuple(tools[p * size]),
                version=version,
            )
            for p, seed in enumerate(seeds)
            if (members := talks[p * size : (p + 1) * size])
        ]

    def _prompts(
        self, observations: Sequence[str], about: Mapping[str, Any]
    ) -> list[tuple[int, ...]]:
        """Return the tokens of each group's prompt."""
        parts = (observations, about["system_prompt"], about["messages"], about["tools"])
        asked = zip(*(part[:: self.env.group_size] for part in parts), strict=True)
        return [self.chat.render(*each) for each in asked]

    def _sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        noise: Sequence[int],
        members: Sequence[int],
        tools: Sequence[Tools],
    ) -> list[Completion]:
        """Sample the completions of `members`: len(noise) / len(prompts) for each prompt.

        The environment may grade the completions of a prompt as soon as all of them are sampled.
        Their texts have tool calls in the canonical form. `tools` has the tools of each member.
        """
        copies = len(noise) // len(prompts)
        completions: dict[int, list[Completion]] = {}
        keep = self.env.may_go_on(members)
        sampling = self.sampler.sample(prompts, noise, self.decoding, tick=self.tick, keep=keep)
        for p, found in sampling:
            own = members[p * copies : (p + 1) * copies]
            opened = self.chat.opened(prompts[p])
            texts = [self.chat.canonical(opened + c.text, tools[own[0]]) for c in found]
            completions[p] = [replace(c, text=t) for c, t in zip(found, texts, strict=True)]
            self.env.score_ahead(dict(zip(own, texts, strict=True)))
            self.answered(copies)
        return [completion for p in range(len(prompts)) for completion in completions[p]]

    def _step(self, talks: Sequence[Talk], active: Sequence[int], timer: Timer) -> list[int]:
        """Give the last answers to the environment; return the members whose episodes go on."""
        actions = [""] * len(talks)  # the environment ignores actions of finished members
        for i in active:
            actions[i] = talks[i].answer.text
        with timer("score"):
            _, _, terminated, truncated, _ = self.env.step(actions)
        timer.add("score_hidden", self.env.hidden_seconds)
        self.tick()  # raises if the run was stopped; its graders may have stopped, too
        replies, over = self.env.replies, terminated | truncated
        for i in active:
            talks[i].graded(replies[i])
        running = [i for i in active if not over[i]]
        for i in running:
            self._reply(talks[i], replies[i])
        self.env.truncate([i for i in running if talks[i].cut])
        return [i for i in running if not talks[i].cut]

    def _reply(self, talk: Talk, reply: Reply) -> None:
        """Append the reply to the context, or cut the talk if the next answer would not fit."""
        tokens = self.chat.follow_up(
            reply.observation,
            ended=self.chat.ended(talk.answer.token_ids),
            results=reply.results,
            answer=talk.answer.text,
        )
        needed = len(talk.context()) + len(tokens) + self.decoding.max_new_tokens
        talk.cut = needed > self.chat.context_length
        if not talk.cut:
            talk.heard(tokens)
