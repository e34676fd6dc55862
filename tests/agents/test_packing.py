"""Prompts that pass through the model once: the same scores and gradients, and fewer tokens."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from grpo_agent.agent import GrpoAgent
from grpo_agent.config import GrpoConfig, LossConfig
from grpo_envs.types import Completion, Group, Reward
from grpo_policy import packing, row_attention
from grpo_policy import policy as policy_module
from grpo_policy.batch import Batch, collate, micro_batches
from grpo_policy.block_attention import attends, by_blocks
from grpo_policy.models import TINY
from grpo_policy.packing import mask_bytes, pack, saves
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from tests.benchmarks.architectures import multimodal

TOKENIZER = AutoTokenizer.from_pretrained(TINY)
CPU = torch.device("cpu")
LONG = tuple(range(5, 45))
GROUPS = [
    (LONG, [(8, 9), (10,), (11, 12, 13, 14)]),
    (LONG[:25], [(16, 17, 18), (19,), (20, 21)]),
]


def gpt2() -> Policy:
    """In float64 throughout, where Qwen3 normalises in float32; positions are learnt vectors."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(TOKENIZER),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=128,
        initializer_range=0.3,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return Policy(GPT2LMHeadModel(config).double(), TOKENIZER)


def qwen3(**changes: Any) -> Policy:
    torch.manual_seed(0)
    given: dict[str, Any] = {"head_dim": 16, "initializer_range": 0.3, "num_key_value_heads": 1}
    given |= {"intermediate_size": 48, "num_hidden_layers": 2} | changes
    config = Qwen3Config(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        num_attention_heads=2,
        **given,
    )
    return Policy(Qwen3ForCausalLM(config), TOKENIZER)


def group(key: int, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> Group:
    """Every second answer has a word of the environment in it."""
    completions = [
        Completion(
            text="",
            token_ids=tuple(ids),
            logprobs=(-1.0,) * len(ids),
            mask=tuple(not (i % 2 and 0 < t < len(ids) - 1) for t in range(len(ids))),
        )
        for i, ids in enumerate(answers)
    ]
    rewards = tuple(Reward(parts={"correct": float(i % 2)}) for i in range(len(answers)))
    return Group(
        key=key,
        prompt="",
        prompt_ids=tuple(prompt),
        completions=tuple(completions),
        rewards=rewards,
    )


def batch(device: torch.device = CPU) -> Batch:
    groups = [group(key, *given) for key, given in enumerate(GROUPS)]
    return collate(groups, TOKENIZER.pad_token_id, device)


def scored(
    policy: Policy, rows: Batch, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> list[Tensor]:
    """Scores, then the gradient of each weight."""
    monkeypatch.setattr(Policy, "packs", lambda self, rows, budget=None: packed)
    logps_BT, entropy_BT = policy(rows, 0.7, entropy_grad=True)
    weights_BT = torch.linspace(1, 2, logps_BT.numel()).view(logps_BT.shape).to(logps_BT)
    (weights_BT * (logps_BT + entropy_BT)).sum().backward()
    gradients = [p.grad.clone() for p in policy.parameters() if p.grad is not None]
    policy.zero_grad()
    return [logps_BT.detach(), entropy_BT.detach(), *gradients]


@pytest.mark.parametrize(
    "index",
    [
        pytest.param([0, 1, 2, 3, 4, 5], id="whole groups"),
        pytest.param([3, 4, 0, 2], id="some of each, in another order"),
        pytest.param([2, 5, 1], id="one group in two places"),
        pytest.param([4], id="a row alone"),
    ],
)
def test_scores_and_gradients_are_those_of_rows(
    index: list[int], monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    rows = batch(device).rows(torch.tensor(index, device=device))
    expected = scored(gpt2().to(device), rows, False, monkeypatch)
    found = scored(gpt2().to(device), rows, True, monkeypatch)
    assert expected[0].abs().sum() > 1
    assert len(found) == len(expected) > 10
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_rotary_positions_go_on_from_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = scored(qwen3(), batch(), False, monkeypatch)
    for one, other in zip(scored(qwen3(), batch(), True, monkeypatch), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_pack_says_who_attends_to_whom() -> None:
    rows = collate([group(0, (5, 6), [(7, 8), (9,)])], 0, torch.device("cpu"))
    packs = pack(rows, 0)
    assert packs.input_ids_KL.tolist() == [[5, 6, 7, 8, 9]]
    assert packs.position_ids_KL.tolist() == [[0, 1, 2, 3, 2]]
    assert packs.pairs()[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert packs.before_N.tolist() == [1, 2, 1]


# --- attention by blocks, as on a GPU


def test_the_blocks_mask_is_the_mask_of_pairs() -> None:
    """Over several blocks of 128 tokens, where some are full, some partial, some left out."""
    groups = [
        group(0, range(5, 205), [range(9, 159), (7,), range(3, 143)]),
        group(1, range(5, 45), [range(9, 309), range(3, 143)]),
    ]
    packs = pack(collate(groups, 0, CPU), 0)
    dense = packs.pairs()
    count, _, size, _ = dense.shape
    found = create_mask(attends(packs.owner_KL), count, None, size, size, "cpu")
    assert found.equal(dense)
    assert dense.any(-1).all()
    blocks = packs.blocks()
    assert blocks.shape == dense.shape
    edge = -size % 128
    tiles = torch.nn.functional.pad(dense, (0, edge, 0, edge)).unflatten(-1, (-1, 128))
    tiles = tiles.unflatten(-3, (-1, 128)).any(-1).any(-2)
    assert blocks.to_dense().bool().equal(tiles)
    assert not tiles.all()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_by_blocks_are_those_of_pairs(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = []
    for blocks in (False, True):
        monkeypatch.setattr(policy_module, "by_blocks", lambda *_, blocks=blocks: blocks)
        model = qwen3()
        with torch.no_grad(), model.weights_in(dtype):
            rows = batch()
            scores.append(model.scores(model.packed(rows), rows, 1.0)[0])
    near = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(scores[1], scores[0], rtol=near, atol=near)


@pytest.mark.parametrize(
    ("device", "dtype", "size", "expected"),
    [
        ("cpu", torch.float32, 64, False),
        ("cuda", torch.float64, 64, False),
        ("cuda", torch.bfloat16, 8, False),
        ("cuda", torch.bfloat16, 64, True),
        ("cuda", torch.float32, 128, True),
    ],
)
def test_where_attention_goes_by_blocks(
    device: str, dtype: torch.dtype, size: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo_policy.block_attention.has_triton", lambda: True)
    assert by_blocks(torch.device(device), dtype, size) == expected
    monkeypatch.setattr("grpo_policy.block_attention.has_triton", lambda: False)
    assert not by_blocks(torch.device(device), dtype, size)


# --- attention by rows, as on a CPU


LONG_ANSWERS = [
    (LONG[:12], [LONG[:20], LONG[3:40], LONG[5:8], LONG[:31]]),
    (LONG[:7], [LONG[:25], LONG[9:30], LONG[2:40], LONG[:11]]),
]


@pytest.mark.parametrize("make", [gpt2, qwen3, partial(qwen3, num_key_value_heads=2)])
def test_attention_by_rows_is_that_of_pairs(
    make: Callable[[], Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts and completions of several lengths; heads that share keys, and heads that do not."""
    rows = collate([group(key, *given) for key, given in enumerate(LONG_ANSWERS)], 0, CPU)
    assert pack(rows, 0).rows is not None
    asked = Mock(wraps=row_attention._answers)
    monkeypatch.setattr(row_attention, "_answers", asked)
    found = scored(make(), rows, True, monkeypatch)
    assert asked.call_count == 2  # layers
    with monkeypatch.context() as patch:
        patch.setattr(packing, "lay_out", lambda *_, **__: None)
        expected = scored(make(), rows, True, monkeypatch)
    assert asked.call_count == 2
    alone = scored(make(), rows, False, monkeypatch)
    near = 1e-10 if make is gpt2 else 1e-3
    for one, pairs, row in zip(found, expected, alone, strict=True):
        torch.testing.assert_close(one, pairs, rtol=near, atol=near / 10)
        torch.testing.assert_close(one, row, rtol=near, atol=near / 10)


@pytest.mark.parametrize(
    ("prompt", "answers", "by_rows"),
    [
        pytest.param(20, [60, 60, 60, 60], True, id="long answers"),
        pytest.param(400, [60, 60, 60, 60], False, id="a prompt whose keys would be copied often"),
        pytest.param(2, [60, 1, 1, 1], False, id="one long answer beside short ones"),
    ],
)
def test_where_attention_goes_by_rows(prompt: int, answers: list[int], by_rows: bool) -> None:
    rows = collate([group(0, range(prompt), [range(n) for n in answers])], 0, CPU)
    assert (pack(rows, 0).rows is not None) == by_rows


# --- when to pack


@pytest.mark.parametrize("head_size", [16, 128])
def test_attention_costs_what_its_heads_take(
    head_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qwen3's heads need not divide its hidden size: 4 operations an element, layer and pair."""
    asked: list[float] = []

    def saves(rows: Batch, per_token: float, per_pair: float, *, attention: str) -> bool:
        asked.append(per_pair)
        return attention == "rows"

    monkeypatch.setattr(policy_module, "saves", saves)
    assert qwen3(head_dim=head_size).packs(batch())
    assert asked == [4.0 * 2 * 2 * head_size]


def test_blocks_save_where_a_mask_of_pairs_does_not() -> None:
    """One prompt token, two answers of 40: 81 x 81 pairs, or the 2 x 41 x 41 / 2 of rows."""
    rows = collate([group(0, (5,), [(8, 9) * 20] * 2)], 0, CPU)
    assert not saves(rows, 0.0, 1.0)
    assert saves(rows, 0.0, 1.0, attention="blocks")


def test_rows_save_where_a_mask_of_pairs_does_not() -> None:
    """20 + 4 x 60 tokens in place of 4 x 80; 260 x 260 pairs, or 20 x 20 / 2 + 4 x 60 x 80."""
    rows = collate([group(0, range(20), [range(60)] * 4)], 0, CPU)
    assert not saves(rows, 1000.0, 5.0)
    assert saves(rows, 1000.0, 5.0, attention="rows")
    assert not saves(rows, 1000.0, 11.0, attention="rows")
    assert tokens_of(qwen3(intermediate_size=256), rows) == 260


def test_rows_whose_mask_would_be_too_large_go_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packs of 47 tokens at most (40 and 7); in parts of 50 tokens, one by one."""
    rows = batch()
    assert mask_bytes(rows) == 2 * 47 * 47 == packing.pack(rows, 0).pairs().numel()
    assert mask_bytes(rows, 50) == 50 * 47
    assert mask_bytes(rows, 30) == 30 * 30
    monkeypatch.setattr(policy_module, "MASK_BYTES", 50 * 47)
    assert tokens_of(qwen3(), rows) == 6 * 44
    assert qwen3().packs(rows, 50)
    assert not qwen3().packs(rows, 51)


def tokens_of(policy: Policy, rows: Batch) -> int:
    """How many tokens pass through the model."""
    seen: list[int] = []
    embedding = policy.model.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda module, args, out: seen.append(args[0].numel()))
    with torch.no_grad():
        policy(rows, 1.0)
    hook.remove()
    return sum(seen)


def test_a_long_prompt_passes_once_and_a_short_one_as_it_did() -> None:
    assert tokens_of(qwen3(), batch()) == 2 * (40 + 7)
    short = [group(0, (5,), [(8, 9) * 20] * 8)]
    rows = collate(short, 0, torch.device("cpu"))
    assert tokens_of(qwen3(), rows) == 8 * 41
    assert not saves(rows, 1.0, 1.0)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"attn_implementation": "eager"}, id="attention that takes no such mask"),
        pytest.param({"use_sliding_window": True, "sliding_window": 8}, id="a sliding window"),
    ],
)
def test_other_attention_gets_rows(changes: dict[str, Any]) -> None:
    assert tokens_of(qwen3(**changes), batch()) == 6 * 44


@pytest.mark.parametrize(
    ("kind", "taken"), [("gemma3", False), ("mistral3", False), ("llava", True)]
)
def test_a_window_of_the_text_model_counts(kind: str, taken: bool) -> None:
    """The window is longer than the texts of the self-test, which therefore cannot see it."""
    policy = Policy(multimodal(kind), AutoTokenizer.from_pretrained(TINY))
    assert policy.share_prompts
    assert policy.takes_pairs == taken


def test_groups_stay_together_within_the_budget() -> None:
    rows = batch()
    assert [part.tolist() for part in micro_batches(rows, 1000, packed=True)] == [
        [3, 4, 5, 0, 1, 2]
    ]
    assert [part.tolist() for part in micro_batches(rows, 47, packed=True)] == [
        [3, 4, 5],
        [0, 1, 2],
    ]
    split = [part.tolist() for part in micro_batches(rows, 43, packed=True)]
    assert sorted(row for part in split for row in part) == [0, 1, 2, 3, 4, 5]
    assert [0, 1] in split


@pytest.mark.parametrize("budget", [30, 47, 4096])
def test_an_update_is_that_of_rows(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a reference, after two epochs: the weights of a run that packs nothing."""
    weights = []
    for packed in (True, False):
        with monkeypatch.context() as patch:
            if not packed:
                patch.setattr(Policy, "packs", lambda self, rows, budget=None: False)
            policy = gpt2()
            assert policy.packs(batch()) == packed
            cfg = GrpoConfig(group_size=3, lr=1e-3, epochs=2, micro_batch_tokens=budget)
            cfg = replace(cfg, loss=LossConfig(beta=0.1))
            agent = GrpoAgent(policy, cfg, Accelerator(cpu=True), Decoding(max_new_tokens=4))
            agent.update([group(key, *given) for key, given in enumerate(GROUPS)])
            weights.append(policy.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-8, atol=1e-8)
