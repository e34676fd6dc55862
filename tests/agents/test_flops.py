"""The operations of a model, by the formula of PaLM and by PyTorch's own count."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from grpo_envs.config.model import LoraConfig
from grpo_envs.types import Completion, Group
from grpo_policy.adapters import add_adapters
from grpo_policy.flops import ModelFlops
from grpo_policy.policy import Policy
from grpo_policy.shapes import config_of


def group(prompt: int, *answers: int) -> Group:
    return Group(
        key=0,
        prompt="",
        prompt_ids=(1,) * prompt,
        completions=tuple(Completion(text="", token_ids=(1,) * length) for length in answers),
        rewards=(),
    )


def test_an_update_takes_what_palm_says(tiny: Policy) -> None:
    """6 N + 12 L H Q T for each token of a row of T."""
    flops = ModelFlops.of(tiny)
    assert flops is not None
    assert (flops.weights, flops.attention) == (tiny.size, 4 * 4 * 32)
    length = 50
    expected = length * (6 * tiny.size + 12 * 4 * 4 * 32 * length)
    assert flops.update([group(0, length)], 1, reference=False) == expected
    twice = flops.update([group(0, length)] * 2, 3, reference=False)
    assert twice == 2 * 3 * expected
    scored = flops.update([group(0, length)], 1, reference=True)
    assert scored == expected * 4 / 3


def test_the_formula_is_near_what_pytorch_counts(tiny: Policy) -> None:
    """Norms are no products: their weights are the difference, and attention, which is causal."""
    flops = ModelFlops.of(tiny)
    assert flops is not None
    tiny.model.set_attn_implementation("eager")  # products that the counter sees
    with FlopCounterMode(display=False) as counted:
        tiny.model(torch.ones(1, 64, dtype=torch.long)).logits.sum().backward()
    ours = flops.update([group(0, 64)], 1, reference=False)
    assert ours == pytest.approx(counted.get_total_flops(), rel=0.03)


def test_a_prompt_counts_once_a_group_and_a_token_attends_to_those_before(tiny: Policy) -> None:
    flops = ModelFlops.of(tiny)
    assert flops is not None
    two = flops.sampling([group(30, 20, 10)])
    pairs = 30 * 30 / 2 + 20 * (30 + 10) + 10 * (30 + 5)
    assert two == 2 * tiny.size * 60 + 4 * flops.attention * pairs
    assert two < flops.sampling([group(30, 20), group(30, 10)])


def test_frozen_weights_have_no_gradients_of_their_own(tiny: Policy) -> None:
    pytest.importorskip("peft")
    whole = ModelFlops.of(tiny)
    add_adapters(tiny, LoraConfig(rank=1), torch.float32)
    adapters = ModelFlops.of(tiny)
    assert whole is not None
    assert adapters is not None
    costs = [each.update([group(0, 9)], 1, reference=False) for each in (whole, adapters)]
    assert costs[1] / costs[0] == pytest.approx(2 / 3, rel=0.05)


def test_an_embedding_that_is_looked_up_costs_nothing() -> None:
    config = config_of("8b")
    with torch.device("meta"):
        policy = Policy.__new__(Policy)
        torch.nn.Module.__init__(policy)
        policy.model = AutoModelForCausalLM.from_config(config)
    flops = ModelFlops.of(policy)
    assert flops is not None
    assert flops.weights == 8_190_735_360 - config.vocab_size * config.hidden_size


def test_of_experts_there_is_none(tiny: Policy) -> None:
    tiny.model.config.num_experts = 8
    assert ModelFlops.of(tiny) is None
