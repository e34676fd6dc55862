"""The model samples in a process of its own: the same completions, and nothing hangs or is lost."""

import time
from collections.abc import Iterator

import pytest
import torch

from grpo_envs.config.model import LoraConfig
from grpo_envs.errors import ConfigError
from grpo_policy.adapters import add_adapters
from grpo_policy.models import TINY, load_policy
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.process import SamplerProcess
from grpo_policy.samplers.torch import TorchSampler

HOW = Decoding(max_new_tokens=12, stop=("7",))
LONG = Decoding(max_new_tokens=400)
Both = tuple[Policy, SamplerProcess]


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    """Adapters and weights in bf16, and a process that samples from a copy: one for all tests."""
    policy = load_policy(str(TINY))
    add_adapters(policy, LoraConfig(rank=2), torch.bfloat16)
    policy.compute_in(torch.bfloat16)
    sampler = SamplerProcess(policy)
    yield policy, sampler
    sampler.close()
    assert not sampler._process.is_alive()
    sampler.close()  # a second time: nothing is left


def prompts(policy: Policy) -> list[tuple[int, ...]]:
    return [policy.render(text) for text in ("What is 1+2?", "What is 48+12+44+7?", "Why?")]


def here(policy: Policy, how: Decoding) -> object:
    return dict(TorchSampler(policy).sample(prompts(policy), range(12), how))


def there(sampler: SamplerProcess, policy: Policy, how: Decoding) -> object:
    return dict(sampler.sample(prompts(policy), range(12), how))


def trained(policy: Policy) -> None:
    """Change what is trained, as an update does."""
    with torch.no_grad():
        for p in policy.trained_parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    policy.masters.publish()
    policy.version += 1


@pytest.mark.parametrize("how", [HOW, Decoding(max_new_tokens=12, temperature=0.0)])
def test_it_samples_what_the_run_would_with_the_weights_of_the_last_sync(
    both: Both, how: Decoding
) -> None:
    policy, sampler = both
    before = here(policy, how)
    assert there(sampler, policy, how) == before
    trained(policy)
    assert here(policy, how) != before
    assert there(sampler, policy, how) == before, "the process has weights of its own"
    assert sampler.version == policy.version - 1
    sampler.sync(policy.copied())
    assert there(sampler, policy, how) == here(policy, how)
    assert sampler.version == policy.version


def test_conversations_go_on_behind_their_caches_until_they_are_released(both: Both) -> None:
    """Or the weights change: the caches of others are of no use."""
    policy, sampler = both

    def turns(by: TorchSampler | SamplerProcess, *, moved: bool) -> object:
        first = dict(by.sample(prompts(policy), range(3), HOW, keep=True))
        if moved:
            trained(policy)
            by.sync(policy)
        more = [
            (*prompt, *first[p][0].token_ids, *policy.follow_up("higher", ended=True))
            for p, prompt in enumerate(prompts(policy))
        ]
        second = dict(by.sample(more, range(3), HOW, keep=True))
        by.release()
        if moved:
            assert second == dict(TorchSampler(policy).sample(more, range(3), HOW))
        return first, second

    sampler.sync(policy)
    assert turns(sampler, moved=False) == turns(TorchSampler(policy), moved=False)
    turns(sampler, moved=True)


def test_what_is_given_up_is_gone(both: Both) -> None:
    """By `tick`, by who asked, and where the process is done already; then it samples again."""
    policy, sampler = both
    start = time.perf_counter()

    def stop() -> None:
        if time.perf_counter() - start > 0.1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(sampler.sample(prompts(policy), range(3000), LONG, tick=stop))
    found = sampler.sample(prompts(policy), range(12), HOW)
    next(found)
    time.sleep(0.2)  # the process is done
    found.close()  # type: ignore[attr-defined]
    assert there(sampler, policy, HOW) == here(policy, HOW)


def test_an_error_in_the_process_is_raised_in_the_run(both: Both) -> None:
    policy, sampler = both
    with pytest.raises(ConfigError, match=r"^a prompt has 5,000 tokens and leaves no room"):
        list(sampler.sample([(5,) * 5000], [0], HOW))
    with pytest.raises(ZeroDivisionError) as caught:
        list(sampler.sample([], [], HOW))
    assert "in answer" in caught.value.__notes__[0], "where it was"
    assert there(sampler, policy, HOW) == here(policy, HOW)


def test_a_model_that_is_no_plain_data_is_refused(tiny: Policy) -> None:
    tiny.model.own = lambda: None
    with pytest.raises(ConfigError) as caught:
        SamplerProcess(tiny)
    assert str(caught.value).startswith("Qwen3ForCausalLM cannot be sent to a process that samples")
    assert str(caught.value).endswith("Allowed: trainer.lag=0.")
