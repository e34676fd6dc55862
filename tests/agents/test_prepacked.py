"""Weights that are packed for oneDNN while a CPU samples: the results do not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from grpo_envs.config.model import LoraConfig
from grpo_envs.types import Completion
from grpo_policy.adapters import add_adapters
from grpo_policy.models import TINY, load_policy
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding, prepacked
from grpo_policy.samplers.prepacked import linear_layers
from grpo_policy.samplers.torch import TorchSampler

PROMPTS = [(5, 6, 7, 8), (9, 10, 11)]
HOW = Decoding(max_new_tokens=12)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small models have packed copies, too."""
    monkeypatch.setattr(prepacked, "LEAST", 0)


@pytest.fixture
def tiny() -> Policy:
    """The bundled model."""
    return load_policy(str(TINY))


class Products(TorchDispatchMode):
    """Counts products with packed matrices, and other products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.packed = self.plain = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        self.packed += name == "_linear_pointwise"
        self.plain += name in ("mm", "addmm", "linear")
        return func(*args, **(kwargs or {}))


def sampled(policy: Policy, dtype: torch.dtype | None = None) -> list[Completion]:
    """Return three completions of each prompt."""
    found = dict(TorchSampler(policy, dtype).sample(PROMPTS, range(6), HOW))
    return [*found[0], *found[1]]


def layer(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(48, 80, bias=bias, dtype=dtype)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_a_layer_gives_the_same_numbers(dtype: torch.dtype, gap: float, bias: bool) -> None:
    own, x = layer(dtype, bias=bias), torch.randn(2, 3, 48).to(dtype)
    with torch.inference_mode():
        expected = own(x)
        with prepacked.prepacked(own), Products() as products:
            found, few = own(x), own(x[:, -1:])
    assert products.packed == 2
    torch.testing.assert_close(found, expected, rtol=gap, atol=gap)
    torch.testing.assert_close(few, expected[:, -1:], rtol=gap, atol=gap)


@pytest.mark.usefixtures("small")
def test_gradients_and_other_dtypes_are_left_to_the_layer() -> None:
    own, x = layer(), torch.randn(3, 48)
    with prepacked.prepacked(own):
        own(x).sum().backward()
        assert own.weight.grad is not None
        with torch.no_grad(), pytest.raises(RuntimeError, match="same dtype"):
            own(x.double())


@pytest.mark.usefixtures("small")
def test_afterwards_layers_are_what_they_were() -> None:
    own = layer()

    def fail() -> None:
        with prepacked.prepacked(own):
            assert "forward" in vars(own)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "forward" not in vars(own)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "sampled in bf16"])
def test_every_matrix_of_a_sampled_token_is_prepacked(
    tiny: Policy, dtype: torch.dtype | None
) -> None:
    with Products() as products:
        sampled(tiny, dtype)
    layers = len(linear_layers(tiny.model))
    assert layers == 7 * 4 + 1
    assert (products.packed, products.plain) == (layers * HOW.max_new_tokens, 0)
    assert not [m for m in tiny.model.modules() if type(m) is nn.Linear and "forward" in vars(m)]


def test_what_is_sampled_does_not_depend_on_it(
    tiny: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sampled(tiny)
    monkeypatch.setattr(prepacked, "LEAST", 0)
    for a, b in zip(plain, sampled(tiny), strict=True):
        assert a.token_ids == b.token_ids
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


@pytest.mark.usefixtures("small")
def test_changed_weights_are_prepacked_again(tiny: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights change in place, as in an update."""
    before = sampled(tiny)
    with torch.no_grad():
        for p in tiny.model.parameters():
            p.mul_(1.1)
    after = sampled(tiny)
    monkeypatch.setattr(prepacked, "LEAST", 1 << 40)
    plain = sampled(tiny)
    assert [c.token_ids for c in after] == [c.token_ids for c in plain]
    assert after[0].logprobs == pytest.approx(plain[0].logprobs, abs=1e-4)
    assert after[0].logprobs != pytest.approx(before[0].logprobs, abs=1e-2)


def test_no_copies_are_made_of_a_small_model(tiny: Policy) -> None:
    assert linear_layers(tiny.model) == []


@pytest.mark.usefixtures("small")
def test_no_copies_are_made_of_what_is_not_trained_or_is_more_than_a_matrix(tiny: Policy) -> None:
    hooked, half = layer(), layer(torch.float16)
    hooked.register_forward_hook(lambda *_: None)
    assert linear_layers(nn.ModuleList([hooked, half, nn.Bilinear(2, 2, 2), layer()]))[1:] == []
    add_adapters(tiny, LoraConfig(rank=2), torch.float32)
    assert [m for m in linear_layers(tiny.model) if m.in_features == 128 == m.out_features] == []
    assert linear_layers(load_policy(str(TINY)).model.requires_grad_(False)) == []
