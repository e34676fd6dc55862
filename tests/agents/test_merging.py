"""Adapters in the weights: what PEFT computes with two small matrices beside each layer."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import peft
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import AutoTokenizer

from grpo_envs.config.model import LoraConfig, ModelConfig
from grpo_envs.types import Completion
from grpo_policy.adapters import add_adapters
from grpo_policy.batch import collate
from grpo_policy.learner import Learner, LearnerSettings, Scored
from grpo_policy.merging import merge, merged_of, merged_weights, unmerge
from grpo_policy.models import TINY, load_policy
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import TorchSampler
from tests.agents.test_agent import made, same, weights
from tests.agents.test_lora import adapters
from tests.agents.test_selftest import model_of
from tests.support.counters import Operations

IDS = torch.arange(24).view(2, 12)
# PEFT asks Transformers by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


def adapted(kind: str = "qwen3", dtype: torch.dtype = torch.float64, **lora: Any) -> Policy:
    """A small policy with adapters of PEFT that do something already."""
    policy = Policy(model_of(kind), AutoTokenizer.from_pretrained(TINY))
    policy.model.requires_grad_(False)
    given: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    policy.model.add_adapter(peft.LoraConfig(task_type="CAUSAL_LM", **given | lora))
    policy.model.eval()
    policy.to(dtype)
    torch.manual_seed(1)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:  # zeros at first
            nn.init.normal_(parameter, std=0.1)
    policy.masters.publish()
    return policy


def passed(policy: Policy) -> dict[str, Tensor]:
    """Logits, and the gradients of all that is trained."""
    policy.model.zero_grad()
    logits = policy.model(input_ids=IDS).logits
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).mean().backward()
    trained = {n: p for n, p in policy.model.named_parameters() if p.requires_grad}
    found = {n: p.grad.clone() for n, p in trained.items() if p.grad is not None}
    assert found.keys() == trained.keys()
    return found | {"logits": logits.detach()}


@pytest.mark.parametrize(
    ("kind", "lora"),
    [
        pytest.param("qwen3", {}, id="rank 4"),
        pytest.param("qwen3", {"r": 1, "lora_alpha": 3}, id="rank 1"),
        pytest.param("qwen3", {"r": 40, "use_rslora": True}, id="a scale by the root of the rank"),
        pytest.param("qwen2", {}, id="layers with a bias"),
        pytest.param("gpt2", {"fan_in_fan_out": True}, id="weights that stand upright"),
        pytest.param("qwen3", {"target_modules": ["q_proj", "down_proj"]}, id="two of the layers"),
        pytest.param("qwen3", {"modules_to_save": ["norm"]}, id="a module that is trained whole"),
    ],
)
def test_values_and_gradients_are_those_of_layers_with_adapters_beside_them(
    kind: str, lora: dict[str, Any]
) -> None:
    policy = adapted(kind, **lora)
    assert len(merged_of(policy.model)) == len(layers_of(policy))
    found = passed(policy)
    assert all(value.abs().max() > 1e-8 for value in found.values())
    unmerge(policy.model)
    same(found, passed(policy), 1e-10)


def layers_of(policy: Policy) -> list[peft.tuners.lora.LoraLayer]:
    return [m for m in policy.model.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]


@pytest.mark.parametrize(
    "lora",
    [
        pytest.param({"use_dora": True}, id="DoRA"),
        pytest.param({"lora_dropout": 0.1}, id="dropout"),
        pytest.param({"lora_bias": True}, id="adapters with a bias"),
        pytest.param({"bias": "all"}, id="biases that are trained"),
        pytest.param({"target_modules": ["embed_tokens"]}, id="embeddings"),
    ],
)
def test_what_is_no_plain_adapter_of_a_linear_layer_stays_apart(lora: dict[str, Any]) -> None:
    policy = adapted("qwen2", **{"target_modules": ["q_proj"], **lora})
    assert layers_of(policy)
    assert merged_of(policy.model) == []
    found = passed(policy)
    merge(policy.model)
    same(found, passed(policy), 0.0)


@pytest.mark.filterwarnings("ignore:Already found a .peft_config. attribute:UserWarning")
def test_two_adapters_of_a_layer_stay_apart() -> None:
    policy = adapted()
    policy.model.add_adapter(peft.LoraConfig(r=2, target_modules="all-linear"), "second")
    policy.model.set_adapter(["default", "second"])
    unmerge(policy.model)
    merge(policy.model)
    assert merged_of(policy.model) == []


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True.:UserWarning")
def test_weights_that_another_layer_shares_are_not_merged(random_policy: Policy) -> None:
    """Adapters of a head that is the embedding, too: the embedding has none."""
    add_adapters(random_policy, LoraConfig(rank=4, targets=["lm_head", "q_proj"]), torch.float64)
    model = random_policy.model
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert head.base_layer.weight is embedding.weight
    names = {id(merged.layer) for merged in merged_of(model)}
    assert names == {id(layer.self_attn.q_proj) for layer in model.model.layers}


def test_layers_in_four_bits_stay_apart() -> None:
    cfg = ModelConfig(quantization="4bit", lora=LoraConfig(rank=4))
    policy = load_policy(str(TINY), cfg)
    add_adapters(policy, cfg.lora, torch.float32)
    assert len(layers_of(policy)) == 7 * 4
    assert merged_of(policy.model) == []


def test_without_adapters_nothing_is_merged(random_policy: Policy) -> None:
    merge(random_policy.model)
    assert merged_weights(random_policy.model) == []


# --- the copy follows the adapters


def loss(scored: Scored) -> tuple[Tensor, dict[str, Tensor]]:
    return -(scored.logps_BT * scored.batch.mask_BT).mean(), {}


def learned(policy: Policy, updates: int = 2) -> None:
    batch = collate([made([3, 9, 5], [1.0, 0.0, 0.5])], policy.pad_id, policy.device)
    learner = Learner(policy, LearnerSettings(lr=1e-2), Accelerator(cpu=True))
    learner.learn([(batch, loss)] * updates)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_copy_is_written_anew_after_each_update_where_it_is(
    tiny: Policy, dtype: torch.dtype
) -> None:
    add_adapters(tiny, LoraConfig(rank=4), dtype)
    tiny.compute_in(dtype)
    before, base = merged_weights(tiny.model), weights(tiny)
    values = [value.clone() for value in before]
    learned(tiny)
    for (one, merged), value in zip(
        zip(before, merged_of(tiny.model), strict=True), values, strict=True
    ):
        assert merged.weight is one
        assert not one.equal(value)
        layer = merged.layer
        down, up = (x["default"].weight.float() for x in (layer.lora_A, layer.lora_B))
        expected = layer.base_layer.weight.float() + 8.0 * up @ down
        torch.testing.assert_close(one, expected.to(dtype))
    now = weights(tiny)
    assert all(now[name].equal(v) for name, v in base.items() if name not in adapters(base))


def test_a_copy_is_not_saved_and_moves_with_the_policy(tiny: Policy) -> None:
    add_adapters(tiny, LoraConfig(rank=4), torch.float32)
    count, names = sum(1 for _ in tiny.parameters()), tiny.state_dict().keys()
    unmerge(tiny.model)
    assert sum(1 for _ in tiny.parameters()) == count
    assert tiny.state_dict().keys() == names
    merge(tiny.model)
    tiny.double()
    assert {weight.dtype for weight in merged_weights(tiny.model)} == {torch.float64}


def test_a_copy_of_a_policy_has_merged_weights_of_its_own() -> None:
    policy = adapted()
    copied = deepcopy(policy)
    one, other = merged_weights(policy.model), merged_weights(copied.model)
    assert {w.data_ptr() for w in one}.isdisjoint(w.data_ptr() for w in other)
    logits = policy.model(input_ids=IDS).logits
    for merged in merged_of(copied.model):
        merged.layer.lora_B["default"].weight.data.zero_()
    copied.masters.publish()
    assert policy.model(input_ids=IDS).logits.equal(logits)
    assert not copied.model(input_ids=IDS).logits.allclose(logits)


# --- one arithmetic while sampling and scoring, in fewer operations


def test_sampling_and_scoring_have_the_same_bits_in_bf16() -> None:
    policy = adapted(dtype=torch.bfloat16)
    scored = policy.model(input_ids=IDS).logits
    with torch.inference_mode(), policy.sampled_in(None):
        sampled = policy.model(input_ids=IDS).logits
    assert scored.requires_grad
    assert scored.equal(sampled)
    unmerge(policy.model)
    assert not policy.model(input_ids=IDS).logits.equal(sampled)


def test_sampling_in_another_dtype_holds_the_copies_in_it_for_a_while() -> None:
    policy = adapted(dtype=torch.float32)
    logits, held = policy.model(input_ids=IDS).logits, merged_weights(policy.model)
    with torch.no_grad(), policy.sampled_in(torch.bfloat16):
        assert {weight.dtype for weight in merged_weights(policy.model)} == {torch.bfloat16}
        low = policy.model(input_ids=IDS).logits
    assert low.dtype == torch.bfloat16
    assert 0 < (low - logits).abs().max() < 0.1
    assert all(a is b for a, b in zip(merged_weights(policy.model), held, strict=True))
    assert policy.model(input_ids=IDS).logits.equal(logits)


def counted(policy: Policy, run: Callable[[Policy], Any]) -> int:
    with Operations() as operations:
        run(policy)
    return int(operations.total)


def test_a_layer_takes_the_operations_of_one_matrix() -> None:
    """Forward: as the model has them without adapters. Backward: fewer than with them apart."""
    policy = adapted(dtype=torch.float32)

    def forward(policy: Policy) -> None:
        policy.model(input_ids=IDS)

    merged, merged_both = counted(policy, forward), counted(policy, passed)
    with policy.adapters_off():
        assert merged == counted(policy, forward)
    unmerge(policy.model)
    layers = len(layers_of(policy))
    assert counted(policy, forward) == merged + 6 * layers
    assert counted(policy, passed) > merged_both + 4 * layers


def sampled(policy: Policy) -> list[Completion]:
    prompts = [(5, 6, 7), (8, 9)]
    found = dict(TorchSampler(policy).sample(prompts, range(4), Decoding(max_new_tokens=9)))
    return [c for p in range(2) for c in found[p]]


def test_the_same_answers_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = adapted()
    found = sampled(policy)
    unmerge(policy.model)
    for one, other in zip(found, sampled(policy), strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-6)
