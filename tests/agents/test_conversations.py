"""Conversations that keep their caches: a turn passes its new tokens, and samples the same."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

import grpo_envs
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.runtime.timing import Timer
from grpo_envs.seeding import seed_for
from grpo_envs.types import Completion, Group, Problem, Reply, Reward, Turn
from grpo_policy.policy import Policy
from grpo_policy.rollout import Rollout
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.conversations import Conversations, Past
from grpo_policy.samplers.places import Places
from grpo_policy.samplers.torch import TorchSampler
from tests.agents.test_budget import Allocator
from tests.agents.test_refill import policy_of
from tests.agents.test_selftest import LINEAR

HOW = Decoding(max_new_tokens=14)
TURNS = 3
ROUNDING = 5e-5
"""Of log-probabilities in float32."""


class Ragged(grpo_envs.TextEnv):
    """Replies of few and of many tokens; an episode ends early where the text hashes to 0."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0}
    max_turns = TURNS

    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt="Roll " + "and roll " * rng.randrange(9), gold="", solution="")

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        roll = seed_for(turns[-1].action) % 7
        said = "again " * roll**2
        return Reply(reward=Reward(parts={"correct": 0.0}), observation=said, done=roll == 0)


class Noting(TorchSampler):
    """Notes, by call, the prompts, what was cached, and the shapes that the model is given."""

    def __init__(self, policy: Policy, **keys: Any) -> None:
        super().__init__(policy, **keys)
        self.prompts: list[Sequence[tuple[int, ...]]] = []
        self.cached: list[list[tuple[int, ...]]] = []
        self.shapes: list[list[tuple[int, int]]] = []
        """Rows and tokens."""

    def sample(
        self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], how: Decoding, **more: Any
    ) -> Iterator[tuple[int, list[Completion]]]:
        for notes in (self.cached, self.shapes):
            notes.append([])
        self.prompts.append(prompts)
        hook = self.policy.model.register_forward_pre_hook(self._note, with_kwargs=True)
        try:
            for p, found in super().sample(prompts, seeds, how, **more):
                self.cached[-1] += [prompts[p] + c.token_ids[:-1] for c in found]
                yield p, found
        finally:
            hook.remove()

    def _note(self, model: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        rows, tokens = kwargs["input_ids"].shape
        self.shapes[-1].append((rows, tokens))

    def passed(self, call: int) -> int:
        """Tokens of prompts and replies that passed in a call, padding included."""
        return sum(rows * tokens for rows, tokens in self.shapes[call] if tokens > 1)

    def new(self, call: int) -> list[int]:
        """How many tokens of each prompt the call before has not had in its cache."""
        before = self.cached[call - 1]
        return [
            len(prompt) - max(len(own) for own in before if prompt[: len(own)] == own)
            for prompt in self.prompts[call]
        ]


def play(
    policy: Policy,
    sampler: TorchSampler,
    env: grpo_envs.TextEnv,
    how: Decoding = HOW,
    *,
    size: int = 4,
    tick: Callable[[], None] = lambda: None,
) -> list[Group]:
    """Four problems, `size` conversations about each."""
    envs = GroupVectorEnv(env, 4 * size, size)
    return Rollout(envs, policy.chat, sampler, how, seed=5, tick=tick)(range(4), Timer())


def same(found: Sequence[Group], expected: Sequence[Group]) -> None:
    pairs = [
        pair
        for one, other in zip(found, expected, strict=True)
        for pair in zip(one.completions, other.completions, strict=True)
    ]
    for one, other in pairs:
        assert (one.token_ids, one.mask, one.text) == (other.token_ids, other.mask, other.text)
        assert one.logprobs == pytest.approx(other.logprobs, abs=ROUNDING)


def whole(policy: Policy) -> Policy:
    """The policy, whose sampler passes whole contexts."""
    policy.caching = replace(policy.caching, keeps=False)
    return policy


@pytest.mark.parametrize(
    ("env", "how", "size", "keys"),
    [
        pytest.param("ragged", HOW, 3, {}, id="ragged replies"),
        pytest.param("guess", Decoding(max_new_tokens=40), 2, {}, id="guess"),
        pytest.param("calculator", Decoding(max_new_tokens=40), 2, {}, id="calculator"),
        pytest.param("ragged", replace(HOW, temperature=0.0), 1, {}, id="as evaluated"),
        pytest.param("ragged", replace(HOW, temperature=0.0), 2, {}, id="equal conversations"),
        pytest.param("ragged", replace(HOW, stop=("1", "=")), 3, {}, id="stop strings"),
        pytest.param("ragged", replace(HOW, thinking_budget=2), 2, {}, id="thoughts"),
        pytest.param("ragged", replace(HOW, repetition_penalty=1.3), 2, {}, id="penalty"),
        pytest.param("ragged", replace(HOW, max_new_tokens=1), 2, {}, id="one token"),
        pytest.param("ragged", HOW, 2, {"batch_size": 3}, id="more of them than places"),
        pytest.param("ragged", HOW, 2, {"batch_tokens": 600}, id="some are dropped"),
        pytest.param("ragged", HOW, 1, {"batch_tokens": 100}, id="one at a time"),
    ],
)
def test_each_turn_is_sampled_as_behind_its_whole_context(
    tiny: Policy,
    monkeypatch: pytest.MonkeyPatch,
    env: str,
    how: Decoding,
    size: int,
    keys: dict[str, Any],
) -> None:
    """Ended rows are seen late, as on a GPU: their caches have tokens behind the end."""
    monkeypatch.setattr("grpo_policy.samplers.torch._LOOK_EVERY", {"cpu": 5})
    made = Ragged() if env == "ragged" else grpo_envs.make(env, turns=3)
    kept = Noting(tiny, **keys)
    found = play(tiny, kept, made, how, size=size)
    plain = Noting(whole(tiny), **keys)
    same(found, play(tiny, plain, made, how, size=size))
    assert len(plain.shapes) == len(kept.shapes) > 1
    turns = range(1, len(plain.shapes))
    less = sum(map(kept.passed, turns)) < sum(map(plain.passed, turns))
    assert less or keys == {"batch_tokens": 100}
    assert kept.passed(0) == plain.passed(0)
    assert kept.conversations.tokens == 0


def test_a_turn_passes_its_new_tokens_alone(tiny: Policy) -> None:
    """Of equal length each of them once, of unequal lengths not twice."""
    chat = tiny.chat
    tiny.eos_ids = (len(tiny.model.get_input_embeddings().weight),)  # no token: no answer ends
    sampler, how = Noting(tiny), replace(HOW, max_new_tokens=6)
    envs = GroupVectorEnv(Again(), 12, 3)
    Rollout(envs, chat, sampler, how, seed=5)(range(4), Timer())
    new = 1 + len(
        chat.follow_up("again", ended=False)
    )  # and the last token of the answer, which was sampled last
    for call in range(1, TURNS):
        assert sampler.shapes[call] == [(12, new)] + [(12, 1)] * (6 - 1)


class Again(grpo_envs.TextEnv):
    """Says the same in each turn."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0}
    max_turns = TURNS

    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt=f"Roll {rng.randrange(10_000)}", gold="", solution="")

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        return Reply(reward=Reward(parts={"correct": 0.0}), observation="again", done=False)


def test_unequal_replies_pass_less_than_twice(tiny: Policy) -> None:
    sampler = Noting(tiny)
    play(tiny, sampler, Ragged())
    assert 16 > len(sampler.prompts[1]) >= len(sampler.prompts[2])
    for call in range(1, TURNS):
        new = sum(sampler.new(call))
        assert len({*sampler.new(call)}) > 3
        assert new < sampler.passed(call) < 2 * new


# Memory


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """The caches that were kept, as long as they are there."""
    usual, found = Conversations.add, list[weakref.ref[Any]]()

    def noted(self: Conversations, past: Past) -> None:
        found.append(weakref.ref(past.cache))
        usual(self, past)

    monkeypatch.setattr(Conversations, "add", noted)
    return found


def test_the_memory_is_given_back_and_the_last_turn_keeps_nothing(
    tiny: Policy, caches: list[weakref.ref[Any]]
) -> None:
    sampler = Noting(tiny)
    play(tiny, sampler, Ragged())
    first, *later, _ = sampler.prompts
    assert len(caches) == 4 * len(first) + sum(map(len, later))
    assert not any(ref() for ref in caches)


def test_a_rollout_that_is_ended_gives_it_back(
    tiny: Policy, caches: list[weakref.ref[Any]]
) -> None:
    sampler = TorchSampler(tiny)

    def stop() -> None:
        if len(caches) > 20:  # of 16 conversations: in the second turn
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(tiny, sampler, Ragged(), tick=stop)
    assert sampler.conversations.tokens == 0


def test_a_single_turn_keeps_nothing(tiny: Policy, caches: list[weakref.ref[Any]]) -> None:
    play(tiny, TorchSampler(tiny), grpo_envs.make("math"))
    assert not caches


@pytest.mark.parametrize("tokens", [300, 900, 2000])
def test_what_is_kept_counts_in_the_budget(
    tiny: Policy, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    usual, kept = Places._remember, list[int]()

    def noted(self: Places, gone: Mapping[int, Completion], left: int) -> None:
        usual(self, gone, left)
        kept.append(self.conversations.tokens)
        assert kept[-1] + left * self.room <= tokens or not kept[-1]

    monkeypatch.setattr(Places, "_remember", noted)
    play(tiny, TorchSampler(tiny, batch_tokens=tokens), Ragged())
    assert tokens / 4 < max(kept) <= tokens


def begun(sampler: TorchSampler, size: int = 4) -> list[tuple[int, ...]]:
    """Contexts of a second turn: replies of unequal lengths behind what was sampled."""
    chat = sampler.policy.chat
    prompts = [chat.render(text) for text in ("What is 48+12+44+7?", "Why?", "What is 1+2?")]
    found = dict(sampler.sample(prompts, range(3 * size), HOW, keep=True))
    return [
        prompts[p] + c.token_ids + chat.follow_up("no " * i, ended=chat.ended(c.token_ids))
        for p in range(3)
        for i, c in enumerate(found[p])
    ]


def answers(
    sampler: TorchSampler, contexts: Sequence[tuple[int, ...]], *, keep: bool = False
) -> list[Completion]:
    found = dict(sampler.sample(contexts, range(90, 90 + len(contexts)), HOW, keep=keep))
    return [c for p in range(len(contexts)) for c in found[p]]


def equal(found: Sequence[Completion], expected: Sequence[Completion]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=ROUNDING)


def test_it_goes_on_exactly_on_every_device(tiny: Policy, device: torch.device) -> None:
    """Several calls in a row: what the second turn has kept, the third goes on behind."""
    tiny.to(device)
    sampler = Noting(tiny)
    contexts = begun(sampler)
    for call in (1, 2):
        found = answers(sampler, contexts, keep=True)
        equal(found, answers(TorchSampler(tiny), contexts))
        assert sum(sampler.new(call)) <= sampler.passed(call) < 2 * sum(sampler.new(call))
        reply = tiny.chat.follow_up("no", ended=True)
        contexts = [own + c.token_ids + reply for own, c in zip(contexts, found, strict=True)]


def test_memory_that_runs_out_is_given_back_first(
    tiny: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = TorchSampler(tiny)
    contexts = begun(sampler)
    expected = answers(TorchSampler(tiny), contexts)
    with Allocator(rows=7) as allocator:
        equal(answers(sampler, contexts, keep=True), expected)
        assert allocator.failures == 2
    dropped, halved = (record.message for record in caplog.records)
    assert dropped.startswith("out of memory while conversations keep their caches: from now on")
    assert halved.startswith("out of memory while 12 completions are sampled: from now on 6")
    assert sampler.conversations.tokens == 0
    begun(sampler)
    assert sampler.conversations.tokens == 0, "it would run out again"


def test_caches_are_dropped_where_the_weights_have_moved(tiny: Policy) -> None:
    sampler = Noting(tiny)
    contexts = begun(sampler)
    assert sampler.conversations.tokens > 0
    for p in tiny.parameters():
        p.data.mul_(1.01)
    tiny.version += 1
    equal(answers(sampler, contexts), answers(TorchSampler(tiny), contexts))
    begun(sampler)
    assert sampler.conversations.tokens > 0
    sampler.sync(tiny)
    assert sampler.conversations.tokens == 0


def test_a_prompt_that_differs_in_one_token_is_another(tiny: Policy) -> None:
    sampler = Noting(tiny)
    contexts = begun(sampler)
    asked = [tuple(7 if i == 3 else token for i, token in enumerate(c)) for c in contexts]
    equal(answers(sampler, asked), answers(whole_sampler(tiny), asked))
    assert sampler.passed(1) == len(asked) * max(map(len, asked))


def whole_sampler(policy: Policy) -> TorchSampler:
    return TorchSampler(whole(policy))


@pytest.mark.parametrize(
    ("kind", "keys", "keeps"),
    [
        pytest.param("qwen3", {}, True, id="attention"),
        pytest.param("gpt2", {}, True, id="learned positions"),
        pytest.param("bloom", {}, True, id="ALiBi"),
        pytest.param("gemma3_text", {"head_dim": 8, "sliding_window": 6}, False, id="sliding"),
        pytest.param("qwen3_5_text", LINEAR, False, id="recurrent and attention"),
        pytest.param("mamba", {}, False, id="recurrent"),
    ],
)
def test_every_kind_of_model_goes_on_exactly(kind: str, keys: dict[str, Any], keeps: bool) -> None:
    policy = policy_of(kind, **keys)
    assert policy.caching.keeps is keeps
    sampler = TorchSampler(policy)
    contexts = begun(sampler)
    assert bool(sampler.conversations.tokens) is keeps
    expected = answers(whole_sampler(policy), contexts)
    equal(answers(sampler, contexts), expected)


# Which prompt goes on behind which completion


def held(*tokens: tuple[int, ...]) -> Conversations:
    conversations = Conversations()
    conversations.turn([], 0, keep=True)
    for each in tokens:
        conversations.add(Past(each, cache=each))
    return conversations


def test_a_prompt_goes_on_behind_the_longest_of_its_beginnings() -> None:
    conversations = held((1, 2), (1, 2, 3), (1, 2, 3), (5, 6))
    conversations.turn([(1, 2, 9), (1, 2, 3, 4), (1, 2, 3), (5, 7)], 0, keep=False)
    taken = conversations.take(range(4))
    assert {p: past.tokens for p, past in taken.items()} == {0: (1, 2), 1: (1, 2, 3)}
    assert conversations.tokens == 0
    assert not conversations.take(range(4))


def test_the_shortest_make_room() -> None:
    conversations = held((1, 2), (1, 2, 3), (4,), (5, 6))
    conversations.fit(6)
    assert conversations.tokens == 5
    conversations.turn([(1, 2, 3, 4), (4, 4)], 0, keep=False)
    assert {*conversations.take(range(2))} == {0}
