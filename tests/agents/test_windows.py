"""Models whose attention changes past some length: they are tried past it, whatever the length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from grpo_envs.config.composition import compose_run
from grpo_envs.config.model import ModelConfig
from grpo_envs.errors import ConfigError
from grpo_envs.training.build import open_policy
from grpo_envs.types import Completion, Group
from grpo_policy.batch import collate
from grpo_policy.kv_cache import Caching
from grpo_policy.loading import remarks
from grpo_policy.models import TINY
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.conversations import Conversations
from grpo_policy.samplers.fixed import Fixing
from grpo_policy.samplers.room import Waiting
from grpo_policy.samplers.torch import TorchSampler, sample
from grpo_policy.selftest import settle
from grpo_policy.windows import Reach, narrowed, reaches
from tests.agents.test_selftest import model_of, saved
from tests.benchmarks.architectures import multimodal

WINDOW = 20
"""Longer than the texts of the self-test, and shorter than those of these tests."""
PROMPTS = (tuple(range(30, 60)), tuple(range(5, 23)), (7, 8, 9))
LATENT = {
    **{"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8},
    **{"v_head_dim": 8, "num_key_value_heads": 4, "index_topk": WINDOW, "index_head_dim": 16},
    **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    **{"n_group": 1, "topk_group": 1},
}
"""DeepSeek V3.2: each query attends to the `index_topk` keys of the largest index scores."""
LLAMA4 = {
    **{"head_dim": 8, "attention_chunk_size": WINDOW, "floor_scale": WINDOW, "moe_layers": [1]},
    **{"num_local_experts": 2, "intermediate_size_mlp": 48, "max_position_embeddings": 128},
    "layer_types": ["chunked_attention", "full_attention"],
    "no_rope_layers": [1, 0],
}
SLIDING = {"sliding_window": WINDOW, "head_dim": 8}
MIXED = ["sliding_attention", "full_attention"]


def settled(model: PreTrainedModel) -> Policy:
    policy = Policy(model, AutoTokenizer.from_pretrained(TINY))
    settle(policy, "x")
    policy.eos_ids = ()
    return policy


def stray(kind: str, **keys: Any) -> PreTrainedModel:
    """A model without any window, whose configuration names one all the same."""
    model = multimodal("llava") if kind == "llava" else model_of(kind)
    for key, value in keys.items():
        setattr(model.config.get_text_config(), key, value)
    return model


@torch.no_grad()
def off(policy: Policy, prompts: Sequence[tuple[int, ...]], found: Sequence[Completion]) -> float:
    """How far the log-probabilities of sampling, and of scoring, are from those of a whole text."""
    copies = len(found) // len(prompts)
    rows = [found[n * copies : (n + 1) * copies] for n in range(len(prompts))]
    groups = [
        Group(key=n, prompt="", prompt_ids=prompt, completions=tuple(own), rewards=())
        for n, (prompt, own) in enumerate(zip(prompts, rows, strict=True))
    ]
    logps_BT, _ = policy(collate(groups, policy.pad_id, policy.device), 1.0)
    gaps: list[float] = []
    for group, scored_T in zip([g for g in groups for _ in range(copies)], logps_BT, strict=True):
        completion = found[len(gaps)]
        ids = torch.tensor([[*group.prompt_ids, *completion.token_ids]])
        logits_TV = policy.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        own_T = logits_TV.log_softmax(-1).gather(1, ids[0, 1:, None])[-len(scored_T) :, 0]
        own_T = own_T[-len(completion.token_ids) :]
        pairs = (torch.tensor(completion.logprobs), scored_T[: len(own_T)])
        gaps.append(max(float((own_T - each).abs().max()) for each in pairs))
    return max(gaps)


@pytest.mark.parametrize(
    ("model", "whole"),
    [
        pytest.param(lambda: model_of("mistral", **SLIDING), False, id="Mistral"),
        pytest.param(lambda: model_of("gemma2", **SLIDING), False, id="Gemma 2"),
        pytest.param(
            lambda: model_of("gemma3_text", **SLIDING, layer_types=MIXED), False, id="Gemma 3"
        ),
        pytest.param(
            lambda: model_of("qwen2", use_sliding_window=True, max_window_layers=1, **SLIDING),
            False,
            id="Qwen2, in its upper layer",
        ),
        pytest.param(
            lambda: model_of(
                "gpt_oss", **SLIDING, layer_types=MIXED, num_local_experts=2, num_experts_per_tok=1
            ),
            False,
            id="gpt-oss",
        ),
        pytest.param(lambda: stray("llava", sliding_window=WINDOW), True, id="LLaVA, stray window"),
        pytest.param(
            lambda: stray("llama", attention_chunk_size=WINDOW), True, id="Llama, stray chunks"
        ),
        pytest.param(lambda: stray("bloom", sliding_window=WINDOW), True, id="ALiBi, stray window"),
    ],
)
def test_past_its_window_a_model_is_sampled_and_scored_as_a_whole_text(
    model: Any, whole: bool
) -> None:
    policy = settled(model())
    assert (policy.reach, policy.caching.whole) == (None, whole)
    names = "its configuration names a window that its attention does not have"
    assert any(line.startswith(names) for line in remarks(policy, ModelConfig())) == whole
    how = Decoding(max_new_tokens=30)
    for fixing in (Fixing(), Fixing(fix=True)):
        sampler = TorchSampler(policy, batch_size=4, fixing=fixing)  # rows leave and join
        found = dict(sampler.sample(PROMPTS, range(9), how))
        assert off(policy, PROMPTS, [c for n in range(3) for c in found[n]]) < 2e-4


def test_with_a_stray_window_a_conversation_continues_from_its_cache() -> None:
    policy = settled(stray("llama", sliding_window=WINDOW))
    assert policy.caching == Caching(whole=True)
    conversations, how = Conversations(), Decoding(max_new_tokens=8)
    conversations.turn(PROMPTS, policy.version, keep=True)
    first = sample(policy, PROMPTS, range(3), how, conversations=conversations)
    contexts = [(*p, *c.token_ids, 5) for p, c in zip(PROMPTS, first, strict=True)]
    conversations.turn(contexts, policy.version, keep=False)
    assert conversations.tokens > sum(map(len, PROMPTS))
    second = sample(policy, contexts, range(3), how, conversations=conversations)
    assert off(policy, contexts, second) < 2e-4


DOGE = {"keep_window_size": WINDOW, "max_position_embeddings": 128}


@pytest.mark.parametrize(
    ("kind", "keys", "key"),
    [
        # its padding counts as positions
        pytest.param("llama4_text", LLAMA4, "attention_chunk_size", id="Llama 4"),
        pytest.param("deepseek_v32", {**LATENT, "index_n_heads": 16}, "index_topk", id="DeepSeek"),
    ],
)
def test_a_model_that_is_exact_only_within_its_window_gets_the_context_of_it(
    kind: str, keys: dict[str, Any], key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(model_of(kind, **keys), tmp_path)
    with caplog.at_level("INFO"):
        policy, _ = open_policy(compose_run([f"model.path={path}"]))
    assert policy.reach == Reach(key, WINDOW)
    assert policy.context_length == WINDOW
    assert f"context: limited to 20 tokens, prompt and answer together: beyond them {key} " in (
        caplog.text
    )
    policy.eos_ids = ()
    prompts = (tuple(range(5, 17)), (7, 8, 9))
    found = dict(TorchSampler(policy).sample(prompts, range(4), Decoding(max_new_tokens=30)))
    assert [len(found[n][0].token_ids) for n in (0, 1)] == [8, 17]
    assert off(policy, prompts, [c for n in (0, 1) for c in found[n]]) < 2e-4


@pytest.mark.parametrize("window", [5, 8])
def test_a_model_that_fails_within_its_window_is_refused_for_that(window: int) -> None:
    """With two heads most index scores are 0, and keys with equal scores have no order."""
    model = model_of("deepseek_v32", **{**LATENT, "index_topk": window, "index_n_heads": 2})
    begins = r"^model\.path=x: DeepseekV32ForCausalLM cannot be sampled .* are off by"
    with pytest.raises(ConfigError, match=begins):
        settle(Policy(model, AutoTokenizer.from_pretrained(TINY)), "x")


def test_lengths_are_narrowed_where_the_model_reads_them_and_put_back() -> None:
    model = model_of("deepseek_v32", **LATENT, index_n_heads=2)
    places: list[Any] = [model.config, model.model.layers[1].self_attn.indexer]
    with narrowed(model):
        assert [place.index_topk for place in places] == [7, 7]
    assert [place.index_topk for place in places] == [WINDOW, WINDOW]


@pytest.mark.parametrize(
    ("kind", "keys", "shortest"),
    [
        pytest.param("mistral", {"sliding_window": 40}, ("sliding_window", 40), id="one"),
        pytest.param("llama4_text", {**LLAMA4, "floor_scale": 9}, ("floor_scale", 9), id="two"),
        pytest.param("mistral", {"sliding_window": 7}, None, id="a few tokens"),
        pytest.param("doge", DOGE, ("keep_window_size", WINDOW), id="keys that are kept"),
        pytest.param(
            "doge", {**DOGE, "max_position_embeddings": WINDOW}, None, id="the whole context"
        ),
        pytest.param("mistral", {"sliding_window": None}, None, id="none"),
        pytest.param("llama", {}, None, id="no such key"),
    ],
)
def test_the_shortest_length_comes_first(
    kind: str, keys: dict[str, Any], shortest: tuple[str, int] | None
) -> None:
    found = reaches(model_of(kind, **keys))
    assert found[:1] == ([Reach(*shortest)] if shortest else [])


@pytest.mark.parametrize(
    ("reach", "joins", "together"),
    [(Reach("floor_scale", 20), False, 2), (Reach("floor_scale", 20), True, 4), (None, False, 4)],
)
def test_padding_that_cannot_be_cut_does_not_exceed_the_length(
    tiny: Policy,
    monkeypatch: pytest.MonkeyPatch,
    reach: Reach | None,
    joins: bool,
    together: int,
) -> None:
    """An answer of 12 tokens to the short prompt would end in column 24 beside the long one."""
    monkeypatch.setattr(tiny, "reach", reach)
    monkeypatch.setattr(tiny, "caching", Caching(joins=joins))
    assert len(Waiting(tiny, [tuple(range(12)), (7, 8, 9)], 2, 12).take(4)) == together


def test_a_model_that_is_exact_in_its_whole_context_is_not_limited() -> None:
    policy = settled(model_of("llama4_text", **{**LLAMA4, "max_position_embeddings": WINDOW}))
    assert (policy.reach, policy.context_length) == (None, WINDOW)


def test_blocks_that_an_indexer_selects_are_a_length() -> None:
    model: Any = model_of("llama", max_position_embeddings=4096)
    model.config.index_block_size, model.config.index_topk_blocks = 128, 16
    assert reaches(model) == [Reach("index_topk_blocks", 2048)]
    with narrowed(model):
        assert (model.config.index_block_size, model.config.index_topk_blocks) == (2, 2)


def test_a_model_that_names_its_mask_is_sampled_after_a_trial_of_packs() -> None:
    """AFMoE passes the mask to its attention by the argument's name."""
    keys = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    policy = settled(model_of("afmoe", **SLIDING, layer_types=MIXED, **keys))
    found = sample(policy, PROMPTS, range(3), Decoding(max_new_tokens=9))
    assert off(policy, PROMPTS, found) < 2e-4
