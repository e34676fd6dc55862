"""The cache: it holds what Transformers' own holds, and takes its memory once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoTokenizer, DynamicCache
from transformers.cache_utils import DynamicLayer

from grpo_policy.kv_cache import Caching, RoomyLayer, roomy_cache
from grpo_policy.models import TINY
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import sample
from tests.agents.test_selftest import LINEAR, MAMBA, model_of


def rows_of(*rows: int) -> Tensor:
    return torch.tensor(rows)


@pytest.mark.parametrize("room", [200, 60], ids=["room for all", "it grows"])
@torch.no_grad()
def test_the_cache_holds_what_transformers_own_holds(tiny: Policy, room: int) -> None:
    """Over many tokens, copies and rows that leave."""
    theirs, ours = DynamicCache(config=tiny.model.config), roomy_cache(tiny.model.config)
    ids = torch.randint(len(tiny.tokenizer), (4, 200), generator=torch.Generator().manual_seed(0))
    for cache in (theirs, ours):
        tiny.model(input_ids=ids[:2, :50], past_key_values=cache)
    theirs.reorder_cache(rows_of(0, 0, 1, 1))  # type: ignore[arg-type]
    ours = tiny.caching.gather([(ours, rows_of(0, 0, 1, 1))], 50, room)
    for t in range(50, 200):
        rows = ids if t < 100 else ids[[0, 3]]
        if t == 100:
            theirs.reorder_cache(rows_of(0, 3))  # type: ignore[arg-type]
            ours = tiny.caching.gather([(ours, rows_of(0, 3))], 100, room)
        for cache in (theirs, ours):
            tiny.model(input_ids=rows[:, t : t + 1], past_key_values=cache)
    for their, own in zip(theirs.layers, ours.layers, strict=True):
        assert isinstance(their, DynamicLayer)
        assert isinstance(own, RoomyLayer)
        assert own.get_seq_length() == 200
        torch.testing.assert_close(own.keys, their.keys, rtol=0, atol=0)
        torch.testing.assert_close(own.values, their.values, rtol=0, atol=0)


@torch.no_grad()
def test_a_token_is_written_and_the_rest_is_not_copied(tiny: Policy) -> None:
    cache, _ = tiny.caching.prefill(tiny.model, input_ids=torch.ones(1, 4, dtype=torch.long))
    cache = tiny.caching.gather([(cache, rows_of(0, 0))], 4, 4 + 90)
    places = set()
    for _ in range(90):
        tiny.model(input_ids=torch.ones(2, 1, dtype=torch.long), past_key_values=cache)
        (layer, *_) = cache.layers
        places.add(layer.keys.data_ptr())
    assert len(places) == 1


class Made(TorchDispatchMode):
    """Counts the new tensors with a row of cache for each completion, and their bytes."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows, self.size = rows, size
        self.lengths: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = isinstance(out, Tensor) and out.dim() == 4 and "empty" in str(func)
        if made and (len(out), out.shape[3]) == (self.rows, self.size):
            self.lengths.append(out.shape[2])
        return out


def test_memory_for_a_batch_is_taken_once(tiny: Policy) -> None:
    """Keys and values of each layer, for the prompt and the longest answer."""
    prompt, layers = tiny.render("What is 1+2?"), tiny.model.config.num_hidden_layers
    how, tiny.eos_ids = Decoding(max_new_tokens=200), ()
    with Made(6, tiny.model.config.head_dim) as made:
        sample(tiny, [prompt], range(6), how)
    assert made.lengths == [len(prompt) + 200] * (2 * layers)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        pytest.param("qwen3", {}, id="attention"),
        pytest.param("gemma3_text", {"head_dim": 8, "sliding_window": 6}, id="sliding"),
        pytest.param("qwen3_5_text", LINEAR, id="recurrent and attention"),
        pytest.param(
            "falcon_h1", {**MAMBA, "mamba_d_ssm": 64, "head_dim": 8}, id="both in a layer"
        ),
        pytest.param("lfm2", {"layer_types": ["conv", "full_attention"]}, id="convolutions"),
    ],
)
@torch.no_grad()
def test_rows_of_two_caches_go_on_side_by_side(kind: str, keys: dict[str, Any]) -> None:
    """A row of 9 tokens that has left 2 behind, and one of 4: as each of them alone."""
    model, caching = model_of(kind, **keys), Caching()
    policy = Policy(model, AutoTokenizer.from_pretrained(TINY))
    ids = torch.randint(500, (3, 30), generator=torch.Generator().manual_seed(0))
    alone = [
        model(input_ids=ids[row : row + 1, :length]).logits[0, -1]
        for row, length in ((1, 17), (2, 12))
    ]
    one, _ = caching.prefill(policy.model, input_ids=ids[:2, :9])
    other, _ = caching.prefill(policy.model, input_ids=ids[2:, :4])
    both = caching.gather([(one, rows_of(1)), (other, rows_of(0))], 9, 20)
    mask_RL = torch.ones(2, 9, dtype=torch.long)
    mask_RL[1, :5] = 0
    for t in range(8):
        mask_RL = torch.cat([mask_RL, torch.ones(2, 1, dtype=torch.long)], dim=1)
        logits_RV = model(
            input_ids=torch.stack([ids[1, 9 + t], ids[2, 4 + t]])[:, None],
            position_ids=torch.tensor([[9 + t], [4 + t]]),
            attention_mask=mask_RL,
            past_key_values=both,
        ).logits[:, -1]
    for got, expected in zip(logits_RV, alone, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_layers_that_are_not_known_to_have_rows_are_not_joined() -> None:
    model, caching = model_of("minimax", head_dim=8), Caching(roomy=False)
    cache, _ = caching.prefill(model, input_ids=rows_of(5, 6, 7)[None])
    with pytest.raises(TypeError, match=r"rows of a .* cannot be put side by side"):
        caching.gather([(cache, rows_of(0)), (cache, rows_of(0))], 3, 9)
