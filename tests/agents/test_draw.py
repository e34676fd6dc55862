"""Other distributions, stop strings and thinking budgets: against Transformers, and exact."""

import itertools
from dataclasses import replace

import pytest
import torch

from grpo_envs.env.plugins import make
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.errors import ConfigError
from grpo_envs.runtime.timing import Timer
from grpo_envs.types import Completion, Group
from grpo_policy.batch import collate
from grpo_policy.policy import Policy
from grpo_policy.rollout import Rollout
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.draw import Context, Distortion, Draw
from grpo_policy.samplers.torch import TorchSampler, sample

PROMPTS = ["What is 1+2?", "What is 48+12+44+7?"]


@pytest.mark.parametrize(
    "keys",
    [
        {"top_k": 7},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"repetition_penalty": 1.7},
        {"top_k": 50, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
    ],
    ids=str,
)
def test_the_distribution_is_that_of_generate(
    random_policy: Policy, keys: dict[str, float]
) -> None:
    """Logits as `generate` makes them, of prompts that are padded here and alone there."""
    how = Decoding(max_new_tokens=5, temperature=0.7, **keys)  # type: ignore[arg-type]
    prompts = [random_policy.render(text) for text in PROMPTS]
    distort = Distortion(how)
    context = Context(how, 5, max(map(len, prompts)), random_policy.device)
    context.begin(torch.tensor([1, 4]), prompts)
    for number, prompt in enumerate(prompts):
        torch.manual_seed(number)
        out = random_policy.model.generate(
            torch.tensor([prompt]),
            do_sample=True,
            temperature=0.7,
            max_new_tokens=5,
            min_new_tokens=None,
            eos_token_id=None,
            pad_token_id=random_policy.pad_id,
            **{"top_k": 0, "top_p": 1.0} | keys,
            return_dict_in_generate=True,
            output_logits=True,
            output_scores=True,
        )
        for t, (logits_1V, scores_1V) in enumerate(zip(out.logits, out.scores, strict=True)):
            slot = torch.tensor([(1, 4)[number]])
            mine_1V = distort(logits_1V, context.ids_SL[slot])
            torch.testing.assert_close(mine_1V, scores_1V.float(), rtol=1e-5, atol=1e-5)
            context.add(slot, torch.tensor([t]), out.sequences[:, len(prompt) + t])


def test_no_token_outside_of_the_cut_is_ever_sampled(random_policy: Policy) -> None:
    prompt = random_policy.render("Why?")
    how = Decoding(max_new_tokens=1, temperature=0.9, top_k=4, top_p=0.95)
    drawn = sample(random_policy, [prompt], range(2000), how)
    logits_V = random_policy.model(torch.tensor([prompt])).logits[0, -1].float() / 0.9
    likely = logits_V.topk(4).indices.tolist()
    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in drawn]), minlength=len(logits_V))
    kept = counts.nonzero()[:, 0].tolist()
    assert 1 < len(kept) <= 4
    assert set(kept) <= set(likely)
    shares = logits_V[kept].softmax(dim=-1)  # of what is left, it is the model's
    for token, share in zip(kept, shares.tolist(), strict=True):
        spread = 4 * (2000 * share * (1 - share)) ** 0.5
        assert counts[token].item() == pytest.approx(2000 * share, abs=spread)
        logp = next(c.logprobs[0] for c in drawn if c.token_ids[0] == token)
        assert logp == pytest.approx(torch.tensor(share).log().item(), abs=1e-4)


def test_rounding_ends_at_no_token_that_was_cut(tiny: Policy) -> None:
    """The largest noise, and weights after which only tokens without weight come."""
    logits_RV = torch.full((64, 600), -torch.inf)
    logits_RV[:, 300:331] = torch.randn(64, 31, generator=torch.Generator().manual_seed(0))
    draw = Draw(tiny, Decoding(max_new_tokens=1, top_p=0.5), 64, 1)
    draw.noise_ST.fill_(1 - 2**-24)
    tokens_R, logps_R, _ = draw(logits_RV, torch.arange(64), torch.zeros(64, dtype=torch.long))
    assert logps_R.isfinite().all()
    assert ((tokens_R >= 300) & (tokens_R < 331)).all()


def test_greedy_with_a_penalty_equals_generate(tiny: Policy) -> None:
    prompts = [tiny.render(text) for text in PROMPTS]
    how = Decoding(max_new_tokens=12, temperature=0.0, repetition_penalty=1.5, top_k=3)
    got = sample(tiny, prompts, [0, 0], how)
    for prompt, completion in zip(prompts, got, strict=True):
        expected = tiny.model.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, repetition_penalty=1.5
        )
        assert list(completion.token_ids) == expected[0, len(prompt) :].tolist()
    plain = sample(tiny, prompts, [0, 0], replace(how, repetition_penalty=1.0))
    assert [c.token_ids for c in plain] != [c.token_ids for c in got]


def test_a_row_does_not_depend_on_the_rows_around_it(tiny: Policy) -> None:
    prompts = [tiny.render(text) for text in PROMPTS]
    how = Decoding(max_new_tokens=20, top_p=0.9, repetition_penalty=1.3)
    both = sample(tiny, prompts, range(6), how)
    alone = sample(tiny, prompts[:1], range(3), how) + sample(tiny, prompts[1:], range(3, 6), how)
    assert [c.token_ids for c in both] == [c.token_ids for c in alone]


# --- stop strings


@pytest.mark.parametrize("every", [1, 8])
@pytest.mark.parametrize("stop", [("1",), ("</answer>", "=1"), ("swer>1",), ("\u4f60",)])
def test_an_answer_ends_at_the_token_that_completes_a_stop_string(
    tiny: Policy, monkeypatch: pytest.MonkeyPatch, every: int, stop: tuple[str, ...]
) -> None:
    monkeypatch.setattr("grpo_policy.samplers.torch._LOOK_EVERY", {"cpu": every})
    prompts = [tiny.render(text) for text in PROMPTS]
    how = Decoding(max_new_tokens=40)
    whole = sample(tiny, prompts, range(12), how)
    stopped = sample(tiny, prompts, range(12), replace(how, stop=stop))
    for before, after in zip(whole, stopped, strict=True):
        n = len(after.token_ids)
        assert after.token_ids == before.token_ids[:n]
        assert after.logprobs == pytest.approx(before.logprobs[:n], abs=1e-4)
        ends = [t for t in range(1, len(before.token_ids) + 1) if _has(tiny, before, t, stop)]
        assert n == (ends[0] if ends else len(before.token_ids))
        assert after.finish_reason == ("stop" if ends else before.finish_reason)
        assert after.text == tiny.decode(after.token_ids)
    cut = [len(a.token_ids) < len(b.token_ids) for a, b in zip(stopped, whole, strict=True)]
    assert any(cut) == (stop != ("\u4f60",))


def _has(policy: Policy, completion: Completion, tokens: int, stop: tuple[str, ...]) -> bool:
    text = policy.decode(completion.token_ids[:tokens])
    return any(some in text for some in stop)


def test_the_end_token_is_put_in_after_a_stop_string(tiny: Policy) -> None:
    """In a conversation: the model has not ended its turn itself."""
    env, end = GroupVectorEnv(make("calculator"), 8, 4), tiny.eos_ids[0]
    how = Decoding(max_new_tokens=40, stop=("</tool_call>",))
    groups = Rollout(env, tiny.chat, TorchSampler(tiny), how, seed=3)([4, 5], Timer())
    seen = 0
    for completion in (c for group in groups for c in group.completions if c.mask):
        runs = list(zip(completion.token_ids, completion.mask, strict=True))
        for (token, mine), (after, next_mine) in itertools.pairwise(runs):
            if mine and not next_mine:
                stopped = (
                    tiny.decode(completion.token_ids).count("</tool_call>") > 0 and token != end
                )
                assert stopped == (after == end)
                seen += stopped
    assert seen


# --- thoughts


THINKING = "<|im_start|>user\nWhat is 48+12+44+7?<|im_end|>\n<|im_start|>assistant\n<think>"


@pytest.mark.parametrize(("budget", "opened"), [(0, True), (3, True), (3, False), (999, True)])
def test_a_thought_is_closed_when_its_budget_is_used_up(
    tiny: Policy, budget: int, *, opened: bool
) -> None:
    text = THINKING if opened else THINKING.removesuffix("<think>")
    prompt = tuple(tiny.tokenizer(text)["input_ids"])
    how = Decoding(max_new_tokens=40, thinking_budget=budget)
    opens, closes = tiny.chat.thought_tokens()
    found = sample(tiny, [prompt], range(16), how)
    forced = 0
    for completion in found:
        ids = [opens, *completion.token_ids] if opened else list(completion.token_ids)
        if opens not in ids:
            assert completion.mask == ()
            continue
        start = ids.index(opens) + 1
        length = ids.index(closes) - start if closes in ids else len(ids) - start
        assert length <= max(budget, 0)
        places = [t for t, mine in enumerate(completion.mask) if not mine]
        if places:
            forced += 1
            assert [completion.token_ids[t] for t in places] == [closes]
            assert [completion.logprobs[t] for t in places] == [0.0]
            assert length == budget
            assert completion.longest_turn == len(completion.token_ids)
            assert completion.length == len(completion.token_ids) - 1
    assert bool(forced) == (budget < 999)


def test_what_follows_a_forced_token_is_scored_as_it_was_sampled(tiny: Policy) -> None:
    """The forced token is context: it has no score, and no gradient reaches it."""
    prompt = tuple(tiny.tokenizer(THINKING)["input_ids"])
    how = Decoding(max_new_tokens=30, thinking_budget=2)
    found = sample(tiny, [prompt], range(8), how)
    assert all(not all(c.mask) for c in found if c.mask)
    group = Group(key=0, prompt="", prompt_ids=prompt, completions=tuple(found), rewards=())
    batch = collate([group], tiny.pad_id, tiny.device)
    logps_BT, _ = tiny(batch, 1.0)
    for row, completion in enumerate(found):
        n = len(completion.token_ids)
        mine = torch.tensor(completion.mask or (True,) * n)
        sampled = torch.tensor(completion.logprobs)
        assert batch.mask_BT[row, :n].tolist() == mine.tolist()
        torch.testing.assert_close(logps_BT[row, :n][mine], sampled[mine], atol=1e-4, rtol=1e-4)
        assert not logps_BT[row, :n][~mine].any()


def test_a_conversation_keeps_the_mask_of_each_turn(tiny: Policy) -> None:
    opens = "<|im_start|>assistant{{ '\\n' }}"
    assert opens in tiny.tokenizer.chat_template
    tiny.tokenizer.chat_template = tiny.tokenizer.chat_template.replace(opens, f"{opens}<think>")
    env = GroupVectorEnv(make("guess"), 16, 8)
    how = Decoding(max_new_tokens=40, thinking_budget=1)
    groups = Rollout(env, tiny.chat, TorchSampler(tiny), how, seed=3)([4, 5], Timer())
    _, closes = tiny.chat.thought_tokens()
    masked = 0
    for completion in (c for group in groups for c in group.completions if len(c.turns) > 1):
        assert max(completion.turn_lengths) == completion.longest_turn
        pairs = zip(completion.token_ids, completion.mask, strict=True)
        masked += sum(token == closes and not mine for token, mine in pairs)
    assert masked


def test_a_model_without_tokens_for_thoughts_has_no_budget(tiny: Policy) -> None:
    plain = replace(tiny.chat, tokenizer=_Letters())  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        plain.thought_tokens()
    assert str(caught.value) == (
        "sampler.thinking_budget: <think> and </think> are not tokens of this model. Allowed: null."
    )


class _Letters:
    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": list(map(ord, text))}
