"""The trial at load: what is sampled and scored is the model's own, or the model is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from grpo_envs.errors import ConfigError
from grpo_policy import kv_cache, samplers
from grpo_policy.kv_cache import Caching
from grpo_policy.models import TINY, load_policy
from grpo_policy.policy import Policy
from grpo_policy.selftest import settle

SHAPE: dict[str, Any] = {
    "vocab_size": 545,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "initializer_range": 0.15,
    "eos_token_id": 540,
    "pad_token_id": 538,
    "bos_token_id": 0,
}
LINEAR = {
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}


def model_of(kind: str, **keys: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SHAPE, **keys})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


def policy_of(kind: str, **keys: Any) -> Policy:
    return Policy(model_of(kind, **keys), AutoTokenizer.from_pretrained(TINY))


@pytest.mark.parametrize(
    ("kind", "keys", "caching", "own_head", "packs"),
    [
        pytest.param("qwen3", {}, Caching(), False, True, id="attention"),
        pytest.param("qwen3_5_text", LINEAR, Caching(keeps=False), False, False, id="Qwen3.5"),
        pytest.param(
            "lfm2",
            {"layer_types": ["conv", "full_attention"]},
            Caching(keeps=False),
            False,
            False,
            id="convolutions",
        ),
        pytest.param(
            "bamba",
            {**MAMBA, "attn_layer_indices": [1]},
            Caching(keeps=False),
            False,
            False,
            id="Mamba 2 and attention",
        ),
        pytest.param(
            "mamba", {}, Caching(name="cache_params", keeps=False), False, False, id="Mamba"
        ),
        pytest.param(
            "minimax",
            {"head_dim": 8},
            Caching(roomy=False, joins=False, keeps=False),
            False,
            False,
            id="own cache",
        ),
        pytest.param("cohere", {}, Caching(), True, True, id="scaled logits"),
        pytest.param(
            "gemma2", {"head_dim": 8}, Caching(keeps=False), True, False, id="capped logits"
        ),
        pytest.param("bloom", {}, Caching(), False, False, id="ALiBi"),
    ],
)
def test_a_model_is_sampled_and_scored_in_its_own_way(
    kind: str, keys: dict[str, Any], caching: Caching, own_head: bool, packs: bool
) -> None:
    policy = policy_of(kind, **keys)
    settle(policy, kind)
    assert (policy.caching, policy.own_head, policy.share_prompts) == (caching, own_head, packs)


def test_small_logits_are_compared_by_their_own_measure() -> None:
    """All logits lie within 0.01 of each other, and their scale matters all the same."""
    policy = policy_of("granite", logits_scaling=500.0)
    settle(policy, "granite")
    assert policy.own_head


def test_a_model_that_forgets_is_refused_in_a_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^model\.path=x: RwkvForCausalLM cannot be sampled"
    ) as e:
        settle(policy_of("rwkv"), "x")
    assert "\n" not in str(e.value)


def test_weights_that_are_initialised_whenever_they_are_loaded_are_named() -> None:
    """Youtu's are: the embedding of the padding token, which its head shares and trains."""
    latent = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
    latent |= {"v_head_dim": 8, "num_key_value_heads": 4}
    before = policy_of("youtu", **latent)
    kept = [weight.clone() for weight in before.model.state_dict().values()]
    with pytest.raises(ConfigError, match=r"Youtu.* initialises weights anew .*embed_tokens") as e:
        settle(before, "x")
    assert "\n" not in str(e.value)
    assert all(map(torch.equal, before.model.state_dict().values(), kept))  # the trial put it back
    settle(policy_of("youtu", **latent, pad_token_id=None), "x")


def test_a_cache_that_is_nearly_right_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are mixed up among the copies of another prompt."""

    def mixed(self: Caching, parts: Any, length: int, room: int) -> Any:
        ((cache, rows),) = parts
        cache.reorder_cache(rows.flip(0))
        return cache

    monkeypatch.setattr(Caching, "gather", mixed)
    with pytest.raises(ConfigError, match=r"its cache gives log-probabilities that are off by"):
        settle(policy_of("qwen3"), "x")


def test_rows_that_cannot_join_go_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of two caches come in another order."""
    usual = kv_cache.joined

    def mixed(parts: Any, length: int, room: int) -> Any:
        if len(parts) > 1:
            parts = [(cache, rows.flip(0) * 0) for cache, rows in reversed(parts)]
        return usual(parts, length, room)

    monkeypatch.setattr(kv_cache, "joined", mixed)
    policy = policy_of("qwen3")
    settle(policy, "x")
    assert policy.caching == Caching(joins=False, keeps=False)


def test_a_sampler_that_takes_other_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log-probabilities are right, and greedy is not what it is."""
    real = samplers.draw.choose

    def second(logits_RV: torch.Tensor, noise_R: torch.Tensor, temperature: float) -> Any:
        rest_RV = logits_RV.scatter(1, logits_RV.argmax(dim=1, keepdim=True), -torch.inf)
        tokens_R, _ = real(rest_RV, noise_R, temperature)
        logps_RV = logits_RV.log_softmax(dim=1)
        return tokens_R, logps_RV.gather(1, tokens_R[:, None])[:, 0]

    monkeypatch.setattr(samplers.draw, "choose", second)
    with pytest.raises(ConfigError, match="Qwen3ForCausalLM cannot be sampled"):
        settle(policy_of("qwen3"), "x")


def test_weights_that_are_no_numbers_are_named() -> None:
    policy = policy_of("llama")
    policy.model.model.layers[0].mlp.down_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(ConfigError, match=r"that are not finite: model\.layers\.0\.mlp\.down_proj"):
        settle(policy, "x")


def test_a_folder_is_tried_when_it_is_loaded(tmp_path: Path) -> None:
    model = model_of("qwen3_5_text", **LINEAR)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(tmp_path)
    policy = load_policy(str(tmp_path))
    assert not policy.share_prompts  # of a trial: a layer with a state cannot share
    assert policy.caching == Caching(keeps=False)


# Folders that hold no whole model


def saved(model: PreTrainedModel, folder: Path) -> str:
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return str(folder)


def refusal(path: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_download_that_was_cut_off_is_one_line(tmp_path: Path) -> None:
    path = saved(model_of("llama"), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    assert refusal(path).startswith(f"model.path={path}: Error while deserializing header")


@pytest.mark.parametrize("end", [b"PK", b"version https://git-lfs.github.com/spec/v1"])
def test_so_is_one_in_pytorchs_own_format(end: bytes, tmp_path: Path) -> None:
    path = saved(model_of("llama"), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(end)
    said = refusal(path)
    assert said.startswith(f"model.path={path}: ")
    assert "PytorchStreamReader" in said or "its weights are truncated" in said
    assert "weights_only" not in said


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    path = saved(model_of("llama"), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "intermediate_size": 96}))
    said = refusal(path)
    assert "weights do not have the shape that config.json asks for (model.layers.0." in said
    assert "96)" in said


def test_a_padding_token_without_an_embedding_is_named(tmp_path: Path) -> None:
    path = saved(model_of("llama"), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(path)
    assert "has no embedding for the tokenizer's padding, '<pad>'" in refusal(path)


def test_a_reward_model_is_no_language_model(tmp_path: Path) -> None:
    """Its head would be a random one."""
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LlamaConfig(**{**SHAPE, "num_labels": 1}))
    assert "lacks 1 weights (lm_head.weight)" in refusal(saved(model, tmp_path))


def test_a_token_without_an_embedding_is_named_when_a_prompt_has_it(tmp_path: Path) -> None:
    path = saved(model_of("llama"), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(path)
    policy = load_policy(path)
    assert policy.render("What is 1+2?")
    for write in (policy.render, lambda text: policy.follow_up(text, ended=True)):
        with pytest.raises(ConfigError, match="token '<tool>', for which the model has no embed"):
            write("a <tool>")
