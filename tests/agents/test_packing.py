"""Prompts that pass through the model once: the same scores and gradients, and fewer tokens."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from grpo_agent.agent import GrpoAgent
from grpo_agent.config import GrpoConfig, LossConfig
from grpo_envs.types import Completion, Group, Reward
from grpo_policy.batch import Batch, collate, micro_batches
from grpo_policy.models import TINY
from grpo_policy.packing import pack, saves
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding

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
    config = Qwen3Config(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        initializer_range=0.3,
        **changes,
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
    monkeypatch.setattr(Policy, "packs", lambda self, rows: packed)
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
    assert packs.attends_K1LL[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert packs.before_N.tolist() == [1, 2, 1]


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
                patch.setattr(Policy, "packs", lambda self, rows: False)
            policy = gpt2()
            assert policy.packs(batch()) == packed
            cfg = GrpoConfig(group_size=3, lr=1e-3, epochs=2, micro_batch_tokens=budget)
            cfg = replace(cfg, loss=LossConfig(beta=0.1))
            agent = GrpoAgent(policy, cfg, Accelerator(cpu=True), Decoding(max_new_tokens=4))
            agent.update([group(key, *given) for key, given in enumerate(GROUPS)])
            weights.append(policy.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-8, atol=1e-8)
