"""Sampling: greedy equals Transformers' own `generate`; a sample depends on its seed alone."""

import pytest
import torch
from accelerate import Accelerator

from grpo_envs.env.installed import SAMPLERS, load
from grpo_policy.models import TINY, restore
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding, SamplerParts
from grpo_policy.samplers.draw import invert
from grpo_policy.samplers.plugin import Torch
from grpo_policy.samplers.torch import TorchSampler, sample, sample_groups

PROMPTS = ["What is 1+2?", "What is 48+12+44+7?", "Why?"]


def prompts(policy: Policy) -> list[tuple[int, ...]]:
    return [policy.render(text) for text in PROMPTS]


def test_greedy_equals_generate(tiny: Policy, device: torch.device) -> None:
    """Ragged, hence left-padded, prompts in one batch; each generated alone by Transformers."""
    tiny.to(device)
    got = sample(tiny, prompts(tiny), [0, 0, 0], Decoding(max_new_tokens=40, temperature=0.0))
    for ids, completion in zip(prompts(tiny), got, strict=True):
        expected = tiny.model.generate(
            torch.tensor([ids], device=device),
            max_new_tokens=40,
            do_sample=False,
            pad_token_id=tiny.pad_id,
        )
        assert list(completion.token_ids) == expected[0, len(ids) :].tolist()


def test_a_group_shares_its_prefill_and_differs_in_its_noise(
    tiny: Policy, device: torch.device
) -> None:
    tiny.to(device)
    how = Decoding(max_new_tokens=30)
    grouped = sample(tiny, prompts(tiny), list(range(12)), how)
    for i, completion in enumerate(grouped):
        alone = sample(tiny, [prompts(tiny)[i // 4]], [i], how)[0]
        assert completion.token_ids == alone.token_ids
        torch.testing.assert_close(completion.logprobs, alone.logprobs, rtol=1e-4, atol=1e-4)
    assert len({c.token_ids for c in grouped[4:8]}) > 1


def test_a_group_is_there_when_its_last_member_has_ended(tiny: Policy) -> None:
    how = Decoding(max_new_tokens=40)
    asked = prompts(tiny) * 3
    seeds = list(range(2 * len(asked)))
    came = list(sample_groups(tiny, asked, seeds, how))
    ends = [max(len(c.token_ids) for c in completions) for _, completions in came]
    assert ends == sorted(ends)
    assert ends[0] < ends[-1]
    whole = [c for _, completions in sorted(came) for c in completions]
    assert [c.token_ids for c in whole] == [c.token_ids for c in sample(tiny, asked, seeds, how)]


def test_weights_are_held_in_bf16_while_sampling_and_are_themselves_again(tiny: Policy) -> None:
    how, asked = Decoding(max_new_tokens=20), prompts(tiny)
    found = dict(TorchSampler(tiny, torch.bfloat16).sample(asked, range(6), how))
    with tiny.weights_in(torch.bfloat16):
        assert found == dict(sample_groups(tiny, asked, range(6), how))
    assert all(p.dtype == torch.float32 for p in tiny.parameters())


def test_a_batch_holds_at_least_the_completions_of_one_prompt(tiny: Policy) -> None:
    sampler = TorchSampler(tiny, batch_size=2)
    found = dict(sampler.sample(prompts(tiny), range(12), Decoding(max_new_tokens=3)))
    assert [len(found[p]) for p in range(3)] == [4, 4, 4]


def test_sampling_that_is_given_up_leaves_the_weights_as_they_were(tiny: Policy) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    before = [p.data_ptr() for p in tiny.parameters()]
    sampler = TorchSampler(tiny, torch.bfloat16)
    with pytest.raises(KeyboardInterrupt):
        list(sampler.sample(prompts(tiny), range(3), Decoding(max_new_tokens=9), tick=stop))
    assert [p.data_ptr() for p in tiny.parameters()] == before


def test_a_sampler_has_the_version_of_the_policy_it_was_given(tiny: Policy) -> None:
    sampler = TorchSampler(tiny)
    assert (sampler.version, tiny.version) == (0, 0)
    restore(tiny, TINY)
    assert (sampler.version, tiny.version) == (0, 1)
    sampler.sync(tiny)
    assert sampler.version == 1


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", None), ("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)],
)
def test_weights_are_held_while_sampling_as_the_configuration_says(
    tiny: Policy, precision: str, dtype: torch.dtype | None
) -> None:
    cfg = Torch.Config(precision=precision)
    parts = SamplerParts(policy=tiny, accelerator=Accelerator(cpu=True))
    made = load(SAMPLERS, cfg.name).make(cfg, parts)
    assert isinstance(made, TorchSampler)
    assert made.dtype is dtype


@pytest.mark.parametrize("every", [2, 7, 100])
def test_looking_seldom_changes_nothing(
    tiny: Policy, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """As on a GPU, which is asked for the rows that have ended after some tokens only."""
    how = Decoding(max_new_tokens=40)
    expected = sample(tiny, prompts(tiny), list(range(12)), how)
    monkeypatch.setattr("grpo_policy.samplers.torch._LOOK_EVERY", {"cpu": every})
    found = sample(tiny, prompts(tiny), list(range(12)), how)
    assert [c.token_ids for c in found] == [c.token_ids for c in expected]
    assert [c.finish_reason for c in found] == [c.finish_reason for c in expected]


def test_order_of_the_batch_changes_nothing(tiny: Policy) -> None:
    how = Decoding(max_new_tokens=30)
    forth = sample(tiny, prompts(tiny), [7, 8, 9], how)
    back = sample(tiny, prompts(tiny)[::-1], [9, 8, 7], how)
    assert [c.token_ids for c in forth] == [c.token_ids for c in back[::-1]]


def test_frequencies_follow_the_distribution(random_policy: Policy) -> None:
    """First tokens of 4,000 samples against the model's own probabilities, at temperature 0.8."""
    prompt = random_policy.render("What is 1+2?")
    draws = sample(
        random_policy, [prompt], list(range(4000)), Decoding(max_new_tokens=1, temperature=0.8)
    )
    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in draws]), minlength=1)
    probs = (random_policy.model(torch.tensor([prompt])).logits[0, -1] / 0.8).softmax(dim=-1)
    likely = probs.topk(5).indices
    for token in likely.tolist():
        p, n = probs[token].item(), 4000
        assert counts[token].item() == pytest.approx(n * p, abs=4 * (n * p * (1 - p)) ** 0.5)
        logp = next(c.logprobs[0] for c in draws if c.token_ids[0] == token)
        assert logp == pytest.approx(probs[token].log().item(), abs=1e-4)


def test_the_end_token_is_part_of_the_completion(tiny: Policy) -> None:
    how = Decoding(max_new_tokens=40, temperature=0.0)
    done = sample(tiny, [tiny.render(PROMPTS[0])], [0], how)[0]
    assert done.finish_reason == "stop"
    assert done.token_ids[-1] in tiny.eos_ids
    assert len(done.token_ids) == len(done.logprobs)
    short = len(done.token_ids) - 1
    cut = sample(
        tiny, [tiny.render(PROMPTS[0])], [0], Decoding(max_new_tokens=short, temperature=0.0)
    )[0]
    assert cut.finish_reason == "length"
    assert cut.token_ids == done.token_ids[:-1]


@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000, 1024])
def test_a_token_is_where_the_cumulative_sum_reaches_the_noise(size: int) -> None:
    """Against the plain sum, in float64, over vocabularies that blocks fit into and do not."""
    weights_RV = torch.rand(400, size, dtype=torch.float64)
    weights_RV[:, ::3] = 0.0 if size > 1 else 1.0
    noise_R = torch.rand(400, dtype=torch.float64)
    sums_RV = weights_RV.cumsum(dim=-1)
    expected_R = (sums_RV <= noise_R[:, None] * sums_RV[:, -1:]).sum(dim=-1)
    assert invert(weights_RV, noise_R)[:, 0].tolist() == expected_R.tolist()


def test_the_ends_of_the_noise_are_tokens_that_can_be() -> None:
    weights_RV = torch.zeros(2, 600)
    weights_RV[:, 300:310] = 1.0
    noise_R = torch.tensor([0.0, 1.0 - 2**-24])
    assert invert(weights_RV, noise_R)[:, 0].tolist() == [300, 309]
