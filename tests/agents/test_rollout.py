"""Rollouts: who gets which prompt, noise and reward."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import grpo_envs
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError
from grpo_envs.runs.rows import completion_rows
from grpo_envs.runtime.timing import Timer
from grpo_envs.seeding import seed_for
from grpo_envs.types import Completion, Group, Problem, Reply, Reward, Turn
from grpo_policy.batch import collate
from grpo_policy.policy import Policy
from grpo_policy.rollout import Rollout
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import TorchSampler
from tests.support.scripted import Scripted, letters


def rollout(policy: Policy, problems: int, group_size: int) -> Rollout:
    envs = GroupVectorEnv(grpo_envs.make("math"), problems * group_size, group_size)
    return Rollout(envs, policy.chat, TorchSampler(policy), Decoding(max_new_tokens=40), seed=3)


def test_each_completion_has_the_reward_of_its_own_text(tiny: Policy) -> None:
    env = grpo_envs.make("math")
    timer = Timer()
    groups = rollout(tiny, 4, 6)([11, 12, 13, 14], timer)
    assert [group.key for group in groups] == [11, 12, 13, 14]
    for group in groups:
        problem = env.problem(group.key)
        assert group.prompt == problem.prompt
        assert group.prompt_ids == tiny.render(problem.prompt, env.system_prompt)
        for completion, reward in zip(group.completions, group.rewards, strict=True):
            assert reward.parts == env.score(problem, completion.text).parts
            assert completion.text == tiny.decode(completion.token_ids)
    totals = {reward.total for group in groups for reward in group.rewards}
    assert len(totals) > 1, "the test needs answers that differ in reward"
    assert set(timer.seconds) == {"sample", "score", "score_hidden"}


def test_members_and_problems_have_noise_of_their_own(tiny: Policy) -> None:
    """Two problems with one prompt are two groups: equal seeds of noise would make them equal."""
    made = rollout(tiny, 2, 6)
    same = grpo_envs.make("math").problem(1)
    made.env.env.problem = lambda seed, split=None: same  # type: ignore[method-assign]
    one, other = made([1, 2], Timer())
    assert one.prompt == other.prompt
    assert [c.token_ids for c in one.completions] != [c.token_ids for c in other.completions]
    assert len({c.token_ids for c in one.completions}) > 1


def test_sampling_in_parts_changes_nothing(tiny: Policy) -> None:
    whole = rollout(tiny, 4, 3)([1, 2, 3, 4], Timer())
    small = rollout(tiny, 4, 3)
    small.sampler = TorchSampler(tiny, batch_size=5)  # one group at a time
    parts = small([1, 2, 3, 4], Timer())
    for one, other in zip(whole, parts, strict=True):
        assert [c.token_ids for c in one.completions] == [c.token_ids for c in other.completions]


def test_an_invalid_reward_keeps_its_cause(tiny: Policy) -> None:
    made = rollout(tiny, 1, 2)

    def broken(problems: Sequence[Problem], answers: Sequence[str]) -> list[Reward]:
        raise OSError("sandbox down")

    made.env.env.score_batch = broken  # type: ignore[method-assign]
    (group,) = made([1], Timer())
    assert not any(reward.valid for reward in group.rewards)
    assert {reward.error for reward in group.rewards} == {"OSError: sandbox down"}


# Conversations


class Dice(grpo_envs.TextEnv):
    """Three turns at most; what the text hashes to says how an answer is taken."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "polite": 0.5}
    max_turns = 3

    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt=f"Roll {rng.randrange(9)}", gold="", solution="")

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        roll = seed_for(turns[-1].action) % 3
        reward = Reward(parts={"correct": float(roll == 0), "polite": 0.25})
        return Reply(reward=reward, observation=f"you rolled {roll}", done=roll == 0)


def talks(policy: Policy, *, temperature: float = 1.0, tokens: int = 12, **kwargs: Any) -> Rollout:
    envs = GroupVectorEnv(Dice(), 24, 4)
    how = Decoding(max_new_tokens=tokens, temperature=temperature)
    return Rollout(envs, policy.chat, TorchSampler(policy, **kwargs), how, seed=5)


SEEDS = range(6)


def members(groups: Sequence[Group]) -> list[tuple[Group, Completion, Reward]]:
    return [
        (group, completion, reward)
        for group in groups
        for completion, reward in zip(group.completions, group.rewards, strict=True)
    ]


def test_members_of_a_group_end_at_different_turns(tiny: Policy) -> None:
    found = members(talks(tiny)(SEEDS, Timer()))
    lengths = {max(1, len(completion.turns)) for _, completion, _ in found}
    assert lengths == {1, 2, 3}
    for _, completion, _ in found:
        if not completion.turns:
            assert not completion.mask  # a single answer is what it always was
            continue
        *earlier, last = completion.turns
        assert all(seed_for(turn.action) % 3 for turn in earlier)
        assert len(completion.turns) == 3 or seed_for(last.action) % 3 == 0
        assert len(completion.mask) == len(completion.token_ids) == len(completion.logprobs)
        assert completion.mask[0]
        assert completion.turn_starts[0] == 0
        for start, length in zip(completion.turn_starts, completion.turn_lengths, strict=True):
            assert all(completion.mask[start : start + length])  # the policy's, then a reply
            assert not any(completion.mask[start + length : start + length + 1])
        assert completion.mask[-1]
        assert completion.length == sum(completion.mask) < len(completion.token_ids)


def test_what_was_sampled_and_what_was_said_stand_in_the_tokens(tiny: Policy) -> None:
    for _, completion, _ in members(talks(tiny)(SEEDS, Timer())):
        runs = [
            (chosen, tuple(token for token, _ in run))
            for chosen, run in groupby(
                zip(completion.token_ids, completion.mask, strict=False), key=lambda pair: pair[1]
            )
        ]
        said = [tiny.decode(tokens) for chosen, tokens in runs if chosen]
        assert said == [turn.action for turn in completion.turns]
        told = [str(tiny.tokenizer.decode(list(tokens))) for chosen, tokens in runs if not chosen]
        for text, turn in zip(told, completion.turns, strict=False):
            frame = f"\n<|im_start|>user\n{turn.observation}<|im_end|>\n<|im_start|>assistant\n"
            assert text.removeprefix("<|im_end|>") == frame
        assert len(told) == max(0, len(completion.turns) - 1)


def test_an_answer_that_was_cut_is_closed_for_the_policy(tiny: Policy) -> None:
    end = tiny.eos_ids[0]
    closed, own = 0, 0
    for _, completion, _ in members(talks(tiny)(SEEDS, Timer())):
        pairs = list(zip(completion.token_ids, completion.mask, strict=False))
        for (token, chosen), (after, next_chosen) in pairwise(pairs):
            if chosen and not next_chosen:  # where the environment begins
                assert (token == end) != (after == end)
                own, closed = own + (token == end), closed + (after == end)
    assert own
    assert closed


def test_the_update_scores_exactly_the_tokens_that_were_sampled(tiny: Policy) -> None:
    groups = talks(tiny)(SEEDS, Timer())
    batch = collate(groups, tiny.pad_id, tiny.device)
    with torch.no_grad():
        logps_BT, entropy_BT = tiny(batch, 1.0)
    everyone = [completion for _, completion, _ in members(groups)]
    assert any(completion.mask for completion in everyone)
    for row, completion in enumerate(everyone):
        n = len(completion.token_ids)
        chosen = torch.tensor(completion.mask or (True,) * n)
        assert batch.mask_BT[row, :n].tolist() == chosen.tolist()
        assert not batch.mask_BT[row, n:].any()
        sampled = torch.tensor(completion.logprobs)
        torch.testing.assert_close(logps_BT[row, :n][chosen], sampled[chosen], atol=1e-4, rtol=1e-4)
        assert not logps_BT[row, :n][~chosen].any()
        assert not entropy_BT[row, :n][~chosen].any()
    assert batch.lengths_B.tolist() == [len(completion.token_ids) for completion in everyone]
    half = batch.rows(torch.tensor([0, 5]))
    assert half.lengths_B.tolist() == [len(everyone[i].token_ids) for i in (0, 5)]


def test_the_gradient_is_that_of_the_policys_tokens_alone(tiny: Policy) -> None:
    """The environment's words move no weight but as context: their own loss is not there."""
    groups = talks(tiny)(SEEDS, Timer())
    batch = collate(groups, tiny.pad_id, tiny.device)
    logps_BT, _ = tiny(batch, 1.0)
    (first,) = torch.autograd.grad(logps_BT.sum(), [tiny.model.get_output_embeddings().weight])
    whole = replace(batch, mask_BT=_places(batch.lengths_B, batch.mask_BT.shape[1]))
    logps_BT, _ = tiny(whole, 1.0)
    weight = tiny.model.get_output_embeddings().weight
    (other,) = torch.autograd.grad(logps_BT[batch.mask_BT].sum(), [weight])
    torch.testing.assert_close(first, other, atol=1e-3, rtol=1e-3)


def _places(lengths_B: torch.Tensor, longest: int) -> torch.Tensor:
    return torch.arange(longest)[None, :] < lengths_B[:, None]


def test_rewards_add_up_over_the_turns_and_each_is_kept(tiny: Policy) -> None:
    for _, completion, reward in members(talks(tiny)(SEEDS, Timer())):
        count = max(1, len(completion.turns))
        assert reward.parts["polite"] == 0.25 * count
        assert reward.total == pytest.approx(reward.parts["correct"] + 0.125 * count)
        if completion.turns:
            assert reward.total == pytest.approx(sum(turn.reward for turn in completion.turns))


def test_a_grader_that_fails_in_mid_conversation_makes_it_invalid(tiny: Policy) -> None:
    made = talks(tiny)
    honest = made.env.env.respond

    def broken(problem: Problem, turns: Sequence[Turn]) -> Reply:
        if len(turns) == 2:
            raise OSError("sandbox down")
        return honest(problem, turns)

    made.env.env.respond = broken  # type: ignore[method-assign]
    for _, completion, reward in members(made(SEEDS, Timer())):
        assert reward.valid is (len(completion.turns) < 2)
        assert reward.error == ("" if reward.valid else "OSError: sandbox down")


def test_a_conversation_does_not_depend_on_the_batch_around_it(tiny: Policy) -> None:
    whole = talks(tiny)(SEEDS, Timer())
    parts = talks(tiny, batch_size=5)(SEEDS, Timer())
    for (_, one, _), (_, other, _) in zip(members(whole), members(parts), strict=True):
        assert (one.token_ids, one.mask) == (other.token_ids, other.mask)


def test_each_turn_has_noise_of_its_own(tiny: Policy) -> None:
    used: list[int] = []

    class Spy(TorchSampler):
        def sample(
            self,
            prompts: Sequence[tuple[int, ...]],
            seeds: Sequence[int],
            how: Decoding,
            *,
            tick: Callable[[], None] = lambda: None,
            keep: bool = False,
        ) -> Iterator[tuple[int, list[Completion]]]:
            used.extend(seeds)
            return super().sample(prompts, seeds, how, tick=tick, keep=keep)

    made = talks(tiny)
    made.sampler = Spy(tiny)
    found = members(made(SEEDS, Timer()))
    assert len(used) == sum(max(1, len(completion.turns)) for _, completion, _ in found)
    assert len(set(used)) == len(used) > len(found)


def test_a_context_that_is_full_ends_the_conversation(
    tiny: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = members(talks(tiny)(SEEDS, Timer()))
    room = max(len(group.prompt_ids) for group, _, _ in first) + 60
    monkeypatch.setattr(tiny.model.config, "max_position_embeddings", room)
    cut = members(talks(tiny)(SEEDS, Timer()))
    shorter = 0
    for (group, before, _), (_, after, reward) in zip(first, cut, strict=True):
        assert len(group.prompt_ids) + len(after.token_ids) <= room
        if len(after.token_ids) < len(before.token_ids):
            shorter += 1
            assert after.finish_reason == "length"
            assert len(after.turns) in (1, 2)
            assert reward.parts["polite"] == 0.25 * len(after.turns)
    assert shorter


def test_thoughts_that_a_template_would_drop_stay_in_the_context(
    tiny: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Qwen3's own does: rendered anew, an earlier turn would lose what was sampled."""
    template = tiny.tokenizer.chat_template.replace(
        "{{ message.content }}", "{{ message.content.split('</think>')[-1] }}"
    )
    plain = tiny.follow_up("wrong", ended=True)
    monkeypatch.setattr(tiny.tokenizer, "chat_template", template)
    assert tiny.follow_up("wrong", ended=True) == plain


def test_a_template_that_ends_no_answer_is_refused(
    tiny: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tiny.tokenizer, "chat_template", "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    )
    with pytest.raises(ConfigError) as caught:
        talks(tiny)(SEEDS, Timer())
    assert str(caught.value) == (
        "model.path: its chat template ends an answer with none of the end tokens "
        "('<|im_end|>'), so a conversation cannot continue after one."
    )


def test_without_a_template_the_reply_stands_on_a_line_of_its_own(
    tiny: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny.tokenizer, "chat_template", None)
    tokens = tiny.follow_up("wrong", ended=True)
    assert tiny.tokenizer.decode(list(tokens)) == "\nwrong\n"


# Without weights: the words of a script


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None  # importing either raises

from grpo_envs import make, write_call
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.runtime.timing import Timer
from grpo_policy.rollout import Rollout
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.plugin import Torch
from tests.support.scripted import Scripted, letters

def say(context, place):
    *_, last = context.strip().rpartition("\\n")
    call = write_call("calculator", {"expression": "40+2"})
    return f"<answer>{last}</answer>" if last.isdigit() else call

assert Torch.Config().name == "torch"
chat = letters()
sampler = Scripted(chat, say, version=7)
envs = GroupVectorEnv(make("calculator"), 4, 2)
for group in Rollout(envs, chat, sampler, Decoding(max_new_tokens=99), seed=1)([3, 4], Timer()):
    for completion, reward in zip(group.completions, group.rewards, strict=True):
        print(group.version, [turn.action for turn in completion.turns], reward.parts["tool"])
"""


def test_a_rollout_plays_with_any_sampler_and_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [grpo_envs.write_call("calculator", {"expression": "40+2"}), "<answer>42</answer>"]
    line = f"7 {said} 1.0\n"
    assert done.stdout == line * 4


class Steps(grpo_envs.TextEnv):
    """Pays each turn by its length in letters; `last` ends the episode. Notes what it is asked."""

    parts: ClassVar[Mapping[str, float]] = {"long": 0.5}
    max_turns = 4

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[Turn]] = []

    def draw(self, rng: random.Random, split: str) -> Problem:
        return Problem(prompt="Go", gold="", solution="")

    def respond(self, problem: Problem, turns: Sequence[Turn]) -> Reply:
        self.asked.append(list(turns))
        said = turns[-1].action
        reward = Reward(parts={"long": len(said) / 10}, note=f"{len(said)} letters")
        return Reply(reward=reward, observation="on", done=said == "last")


def scripted(room: int, say: Callable[[str, int], str], size: int = 1) -> tuple[Steps, Rollout]:
    env, chat = Steps(), letters(room)
    envs = GroupVectorEnv(env, size, size)
    return env, Rollout(envs, chat, Scripted(chat, say), Decoding(max_new_tokens=10), seed=0)


def four_then_last(context: str, place: int) -> str:
    return "last" if "four" in context else "four"


# "Go" has 2 letters, "four" with its end 5, "\non\n" 4; then up to 10 may come.
FITS = 2 + 5 + 4 + 10


@pytest.mark.parametrize(("room", "turns"), [(FITS, 2), (FITS - 1, 1)])
def test_another_turn_is_played_where_its_longest_answer_fits(room: int, turns: int) -> None:
    _, made = scripted(room, four_then_last)
    (group,) = made([1], Timer())
    (completion,) = group.completions
    assert [turn.action for turn in completion.turns] == ["four", "last"][:turns]
    assert completion.finish_reason == ("stop" if turns == 2 else "length")
    expected = "four\0\non\nlast\0" if turns == 2 else "four\0"
    assert "".join(map(chr, completion.token_ids)) == expected


def test_a_member_whose_context_is_full_has_no_further_turns() -> None:
    """It was answered '' in its place, graded and paid for that, as long as others went on."""

    def say(context: str, place: int) -> str:
        if context == "Go":
            return ["a", "too long"][place]
        return "last" if "b" in context else "b"

    env, made = scripted(FITS + 3, say, size=2)
    (group,) = made([1], Timer())
    assert [[turn.action for turn in turns] for turns in env.asked] == [
        ["a"],
        ["too long"],
        ["a", "b"],
        ["a", "b", "last"],
    ]
    short, cut = group.completions
    assert [turn.action for turn in short.turns] == ["a", "b", "last"]
    assert [turn.action for turn in cut.turns] == ["too long"]
    assert (short.finish_reason, cut.finish_reason) == ("stop", "length")
    assert [reward.parts["long"] for reward in group.rewards] == pytest.approx([0.6, 0.8])


def test_a_turn_has_its_reward_from_when_it_is_graded() -> None:
    env, made = scripted(1000, four_then_last)
    (group,) = made([1], Timer())
    seen = [[turn.reward for turn in turns] for turns in env.asked]
    assert seen == [[0.0], [0.2, 0.0]]  # weighted; 0 in the turn that is being graded
    assert [turn.reward for turn in group.completions[0].turns] == [0.2, 0.2]


def test_the_note_of_a_valid_reward_stands_in_its_row() -> None:
    _, made = scripted(1000, four_then_last)
    (row,) = completion_rows(made([1], Timer()))
    assert (row["valid"], row["error"]) == (True, "")
    assert row["note"] == "turn 1: 4 letters; turn 2: 4 letters"


def test_the_note_of_one_turn_is_as_the_grader_wrote_it() -> None:
    envs, chat = GroupVectorEnv(grpo_envs.make("countdown"), 2, 2), letters()
    sampler = Scripted(chat, lambda *_: "<answer>1+1</answer>")
    groups = Rollout(envs, chat, sampler, Decoding(max_new_tokens=40), seed=0)([1], Timer())
    env = grpo_envs.make("countdown")
    env.reset(seed=1)
    *_, info = env.step("<answer>1+1</answer>")  # as `play` shows it
    assert info["detail"]
    assert [row["note"] for row in completion_rows(groups)] == [info["detail"]] * 2


def test_a_part_that_was_left_out_is_0_and_one_that_does_not_apply_is_not_there() -> None:
    env, chat = grpo_envs.make("math", rewards={"length": -0.1}), letters()
    envs = GroupVectorEnv(env, 1, 1)
    env.score_batch = lambda problems, answers: [Reward(parts={"format": 1.0})]  # type: ignore[method-assign]
    sampler = Scripted(chat, lambda *_: "seven")
    made = Rollout(envs, chat, sampler, Decoding(max_new_tokens=9), seed=0)
    (whole,) = made([1], Timer())[0].rewards
    assert list(whole.parts) == ["correct", "format", "length"]
    assert (whole.parts["correct"], whole.parts["format"]) == (0.0, 1.0)
    assert whole.weights == env.weights
    env._functions.clear()
    (fewer,) = made([1], Timer())[0].rewards
    assert fewer.parts == {"correct": 0.0, "format": 1.0}


# --- precision


def test_sampling_in_bf16_leaves_the_weights_as_they_were(tiny: Policy) -> None:
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    seen: set[torch.dtype] = set()
    head = tiny.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    low = talks(tiny, dtype=torch.bfloat16)(SEEDS, Timer())
    assert seen == {torch.bfloat16}
    hook.remove()
    after = tiny.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.dtype == torch.float32 for p in tiny.parameters())
    exact = talks(tiny)(SEEDS, Timer())
    first = [[c.logprobs[0] for c in group.completions] for group in low]
    assert first != [[c.logprobs[0] for c in group.completions] for group in exact]
    assert members(low)[0][1].logprobs[0] == pytest.approx(
        members(exact)[0][1].logprobs[0], abs=0.1
    )


def test_weights_come_back_where_sampling_fails(tiny: Policy) -> None:
    before = [p.data_ptr() for p in tiny.parameters()]
    with pytest.raises(RuntimeError, match="shapes"), tiny.weights_in(torch.bfloat16):
        tiny.model.get_output_embeddings()(torch.ones(1, 3))
    assert [p.data_ptr() for p in tiny.parameters()] == before
