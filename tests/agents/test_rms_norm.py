"""RMSNorm in fewer passes: values and gradients of the plain formula, or the plain layer."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
)
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from grpo_policy.rms_norm import fuse_norms, normalise

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


def plain(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight_D


def model(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    made: PreTrainedModel
    match kind:
        case "llama":
            made = LlamaForCausalLM(LlamaConfig(**SIZES))
        case "gemma3":
            made = Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, pad_token_id=0))
        case _:
            made = Qwen3ForCausalLM(Qwen3Config(**SIZES))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "norm" in name:
                weight.add_(torch.randn(weight.shape), alpha=0.3)
    return made


def scored(of: PreTrainedModel) -> list[Tensor]:
    """Logits of a text, and the gradient of each weight."""
    logits = of(input_ids=torch.arange(24).view(2, 12)).logits
    logits.log_softmax(-1).square().sum().backward()
    gradients = [p.grad.clone() for p in of.parameters() if p.grad is not None]
    of.zero_grad()
    return [logits.detach(), *gradients]


@pytest.mark.parametrize("shape", [(6,), (5, 6), (3, 4, 2, 6)])
@pytest.mark.parametrize("trained", [(True, True), (True, False), (False, True)])
def test_normalising_is_the_formula(shape: tuple[int, ...], trained: tuple[bool, bool]) -> None:
    torch.manual_seed(1)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=trained[0])
    weight_D = torch.randn(6, dtype=torch.float64, requires_grad=trained[1])
    pull = torch.randn(shape, dtype=torch.float64)
    leaves = [leaf for leaf in (x, weight_D) if leaf.requires_grad]
    found, expected = normalise(x, weight_D, 0.1), plain(x, weight_D, 0.1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, pull),
        torch.autograd.grad(expected, leaves, pull),
        rtol=1e-11,
        atol=1e-12,
    )
    with torch.no_grad():
        assert normalise(x, weight_D, 0.1).equal(found)


@pytest.mark.parametrize(("kind", "norms"), [("llama", 5), ("qwen3", 9), ("gemma3", 0)])
def test_a_model_scores_as_before(kind: str, norms: int) -> None:
    """Gemma adds 1 to its weights, which the trial sees: its layers stay as they are."""
    before, after = model(kind), model(kind)
    expected = scored(before)
    assert fuse_norms(after) == norms
    assert after.state_dict().keys() == before.state_dict().keys()
    for one, other in zip(scored(after), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_it_is_done_once() -> None:
    of = model("llama")
    assert fuse_norms(of) == 5
    assert fuse_norms(of) == 0


def test_a_copy_normalises_with_its_own_weights() -> None:
    of = nn.Sequential(LlamaRMSNorm(8))
    fuse_norms(of)
    other = copy.deepcopy(of)
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    x_ND = torch.randn(3, 8)
    torch.testing.assert_close(other(x_ND), 2 * of(x_ND))


def test_another_type_is_left_to_the_layer() -> None:
    """In half precision the layer's own forward normalises in float32 and gives bf16 back."""
    of, own = LlamaRMSNorm(8).bfloat16(), LlamaRMSNorm(8).bfloat16()
    x_ND = torch.randn(3, 8).bfloat16()
    assert fuse_norms(of) == 1
    assert of(x_ND).equal(own(x_ND))


class GatedRMSNorm(LlamaRMSNorm):
    """As of Mamba 2: with a gate it is more than it is without."""

    def forward(self, hidden_states: Tensor, gate: Tensor | None = None) -> Tensor:
        normal: Tensor = super().forward(hidden_states)
        return normal if gate is None else normal * gate


def test_what_else_a_layer_is_given_is_left_to_it() -> None:
    of = GatedRMSNorm(8)
    assert fuse_norms(of) == 1
    x_ND = torch.randn(3, 8)
    torch.testing.assert_close(of(x_ND, x_ND), of(x_ND) * x_ND)
    torch.testing.assert_close(of(x_ND, gate=x_ND), of(x_ND) * x_ND)


class TwoRMSNorm(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor, other: Tensor) -> Tensor:  # type: ignore[override]
        return hidden_states + other


def test_a_layer_that_cannot_be_tried_stays() -> None:
    of = TwoRMSNorm(8)
    assert fuse_norms(of) == 0
    assert of(torch.ones(1, 8), torch.ones(1, 8)).equal(torch.full((1, 8), 2.0))
