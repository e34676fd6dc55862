"""SwiGLU that keeps less: values and gradients of the plain layer, or the plain layer."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from transformers import Gemma3TextConfig, LlamaConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3MLP
from transformers.models.llama.modeling_llama import LlamaMLP

from grpo_policy.gated_layers import fuse_gated_layers, gated

SIZE, INNER = 16, 48


def layer(**settings: Any) -> LlamaMLP:
    torch.manual_seed(0)
    return LlamaMLP(
        LlamaConfig(hidden_size=SIZE, intermediate_size=INNER, num_attention_heads=2, **settings)
    )


def passed(of: nn.Module, x: Tensor) -> list[Tensor]:
    """Values, and the gradients of the input and of each weight."""
    x = x.clone().requires_grad_()
    of.zero_grad()
    y = of(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in of.parameters())]


def kept(of: nn.Module, x: Tensor) -> int:
    """Bytes that the layer keeps for the backward pass beside its weights."""
    own = {p.untyped_storage().data_ptr() for p in of.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = of(x)
    assert y.requires_grad
    return sum(sizes.values())


def test_a_gated_layer_is_the_formula() -> None:
    torch.manual_seed(1)
    shapes = ((2, 3, INNER), (2, 3, INNER), (SIZE, INNER))
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    gate, up, weight = leaves
    pull = torch.randn(2, 3, SIZE, dtype=torch.float64)
    found, expected = gated(*leaves), functional.linear(functional.silu(gate) * up, weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, pull),
        torch.autograd.grad(expected, leaves, pull),
        rtol=1e-11,
        atol=1e-12,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_computes_as_before_and_keeps_two_wide_tensors(dtype: torch.dtype) -> None:
    before, after = layer().to(dtype), layer().to(dtype)
    x = torch.randn(5, SIZE).to(dtype)
    assert fuse_gated_layers(after) == 1
    assert fuse_gated_layers(after) == 0
    coarse = dtype == torch.bfloat16
    for one, other in zip(passed(after, x), passed(before, x), strict=True):
        torch.testing.assert_close(one, other, rtol=0.02 if coarse else 1e-5, atol=1e-5)
    wide = 5 * INNER * dtype.itemsize
    assert kept(before, x) - kept(after, x) == 2 * wide
    with torch.no_grad():
        assert after(x).equal(before(x))


def test_a_copy_computes_with_its_own_weights() -> None:
    of = layer()
    fuse_gated_layers(of)
    other = copy.deepcopy(of)
    with torch.no_grad():
        other.down_proj.weight.mul_(2)
    x = torch.randn(3, SIZE)
    torch.testing.assert_close(other(x), 2 * of(x))


def test_other_layers_stay() -> None:
    gelu = Gemma3MLP(
        Gemma3TextConfig(hidden_size=SIZE, intermediate_size=INNER, num_attention_heads=2)
    )
    assert fuse_gated_layers(gelu) == 0
    assert fuse_gated_layers(layer(mlp_bias=True)) == 0


def test_a_layer_changed_afterwards_computes_itself() -> None:
    """Adapters, or a hook, come after the policy is made."""
    of = layer()
    fuse_gated_layers(of)
    of.down_proj.register_forward_hook(lambda *_: torch.ones(()))
    assert of(torch.randn(3, SIZE)).equal(torch.ones(()))


def test_a_frozen_matrix_has_no_gradient() -> None:
    of, x = layer(), torch.randn(3, SIZE)
    of.down_proj.requires_grad_(requires_grad=False)
    fuse_gated_layers(of)
    of(x).sum().backward()
    assert of.down_proj.weight.grad is None
    assert of.gate_proj.weight.grad is not None
