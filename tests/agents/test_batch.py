"""Batches: what was sampled goes in as it was, and comes out in parts that are whole."""

import random
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise

import pytest
import torch

import grpo_envs
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.runtime.timing import Timer
from grpo_envs.types import Completion, Group, Reward
from grpo_policy.batch import Batch, collate, micro_batches
from grpo_policy.policy import Policy
from grpo_policy.rollout import Rollout
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import TorchSampler

PAD = 3
CPU = torch.device("cpu")


def group(prompt: Sequence[int], *completions: Sequence[int], key: int = 0) -> Group:
    return Group(
        key=key,
        prompt="",
        prompt_ids=tuple(prompt),
        completions=tuple(
            Completion(
                text="not what is read",
                token_ids=tuple(ids),
                logprobs=tuple(-0.5 - t for t in range(len(ids))),
            )
            for ids in completions
        ),
        rewards=tuple(Reward(parts={"correct": 0.0}) for _ in completions),
    )


def test_collate_by_hand() -> None:
    batch = collate([group([5, 6], [7], [8, 9, 4]), group([1], [2, 2], [7])], PAD, CPU)
    assert batch.input_ids_BL.tolist() == [
        [5, 6, 7, PAD, PAD],
        [5, 6, 8, 9, 4],
        [1, 2, 2, PAD, PAD],
        [1, 7, PAD, PAD, PAD],
    ]
    assert batch.prompt_lengths_B.tolist() == [2, 2, 1, 1]
    assert batch.token_ids_BT.tolist() == [[7, PAD, PAD], [8, 9, 4], [2, 2, PAD], [7, PAD, PAD]]
    assert batch.mask_BT.tolist() == [
        [True, False, False],
        [True, True, True],
        [True, True, False],
        [True, False, False],
    ]
    assert batch.sampled_logps_BT.tolist() == [
        [-0.5, 0, 0],
        [-0.5, -1.5, -2.5],
        [-0.5, -1.5, 0],
        [-0.5, 0, 0],
    ]
    assert batch.input_ids_BL.dtype == batch.token_ids_BT.dtype == torch.int64
    assert batch.mask_BT.dtype == torch.bool
    assert batch.sampled_logps_BT.dtype == torch.float32


@pytest.mark.parametrize(
    "completion",
    [
        pytest.param([7, 8, PAD], id="it ends with the padding token, which ends a turn here"),
        pytest.param([PAD, PAD, PAD], id="it is nothing else"),
        pytest.param([PAD, 8, 9], id="it begins with it"),
    ],
)
def test_the_mask_is_made_from_lengths(completion: list[int]) -> None:
    batch = collate([group([PAD, 6, PAD], completion, [7])], PAD, CPU)
    assert batch.mask_BT.tolist() == [[True] * 3, [True, False, False]]
    assert batch.prompt_lengths_B.tolist() == [3, 3]
    assert batch.input_ids_BL[0].tolist() == [PAD, 6, PAD, *completion]
    assert batch.rows(slice(0, 1)).token_ids_BT.tolist() == [completion]


@pytest.mark.parametrize(
    ("index", "tokens", "length"),
    [
        pytest.param(slice(0, 1), 1, 3, id="a slice of one row"),
        pytest.param(torch.tensor([3, 0]), 1, 3, id="some rows in another order"),
        pytest.param(torch.tensor([3, 2]), 2, 3, id="the longest completion is not the first"),
        pytest.param(torch.tensor([1, 2]), 3, 5, id="the longest row of all"),
    ],
)
def test_rows_are_cut_to_their_longest(
    index: slice | torch.Tensor, tokens: int, length: int
) -> None:
    """A part is what would have been made of its rows alone."""
    rows = [([5, 6], [7]), ([5, 6], [8, 9, 4]), ([1], [2, 2]), ([1], [7])]
    whole = collate([group(prompt, completion) for prompt, completion in rows], PAD, CPU)
    numbers = torch.arange(4)[index].tolist()
    alone = collate([group(*rows[i]) for i in numbers], PAD, CPU)
    part = whole.rows(index)
    assert part.mask_BT.shape == (len(numbers), tokens)
    assert part.input_ids_BL.shape == (len(numbers), length)
    assert part.groups_B.tolist() == numbers
    for field in fields(Batch):
        if field.name == "groups_B":  # numbers of the whole
            continue
        assert getattr(part, field.name).equal(getattr(alone, field.name)), field.name


def ragged(seed: int, rows: int = 40) -> Batch:
    rng = random.Random(seed)
    groups = [
        group([5] * rng.randint(1, 30), [6] * rng.randint(1, 50), [7] * rng.randint(1, 50))
        for _ in range(rows // 2)
    ]
    return collate(groups, PAD, CPU)


@pytest.mark.parametrize("budget", [1, 50, 79, 80, 200, 1000, 10_000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_parts_hold_each_row_once_and_keep_to_the_budget(seed: int, budget: int) -> None:
    batch = ragged(seed)
    parts = micro_batches(batch, budget)
    assert sorted(row for part in parts for row in part.tolist()) == list(range(40))
    for part in parts:
        size = batch.rows(part).input_ids_BL.numel()  # padding included: this is what is computed
        assert size <= budget or len(part) == 1
        assert len(part) > 0
    # As few as can be: no two neighbours would fit into one.
    for one, other in pairwise(parts):
        both = torch.cat([one, other[:1]])
        assert batch.rows(both).input_ids_BL.numel() > budget


def test_parts_hold_rows_of_similar_length() -> None:
    batch = ragged(0)
    lengths = (batch.prompt_lengths_B + batch.mask_BT.sum(dim=1)).tolist()
    order = [lengths[row] for part in micro_batches(batch, 200) for row in part.tolist()]
    assert order == sorted(lengths)
    # Little of what is computed is padding, half of it where rows come as they are.
    padded = sum(batch.rows(part).input_ids_BL.numel() for part in micro_batches(batch, 200))
    assert padded < 1.15 * sum(lengths) < batch.input_ids_BL.numel() * 0.9


# --- from sampling to a batch


def rollout(policy: Policy, problems: int, *, batch_size: int = 256) -> Rollout:
    envs = GroupVectorEnv(grpo_envs.make("math"), problems * 3, 3)
    how = Decoding(max_new_tokens=12)
    sampler = TorchSampler(policy, batch_size=batch_size)
    return Rollout(envs, policy.chat, sampler, how, seed=3)


def test_tokens_go_in_as_they_were_sampled(random_policy: Policy) -> None:
    """Never re-tokenised: the text of a wild sample comes back as other tokens."""
    groups = rollout(random_policy, 2)([1, 2], Timer())
    batch = collate(groups, random_policy.pad_id, random_policy.device)
    completions = [c for g in groups for c in g.completions]
    for i, completion in enumerate(completions):
        n = len(completion.token_ids)
        assert tuple(batch.token_ids_BT[i, :n].tolist()) == completion.token_ids
        assert batch.mask_BT[i].sum() == n
    again = [tuple(random_policy.tokenizer(c.text)["input_ids"]) for c in completions]
    assert all(ids != c.token_ids for ids, c in zip(again, completions, strict=True))
    logps_BT, _ = random_policy(batch, 1.0)
    gap_BT = (logps_BT.detach() - batch.sampled_logps_BT) * batch.mask_BT
    assert gap_BT.abs().max() < 1e-5


def test_a_problems_samples_do_not_depend_on_the_problems_around_it(tiny: Policy) -> None:
    """Noise comes from run, problem and member: order, number and parts of a batch change nothing,
    log-probabilities but for the last digits."""
    forth = {g.key: g for g in rollout(tiny, 4)([11, 12, 13, 14], Timer())}
    back = {g.key: g for g in rollout(tiny, 4, batch_size=7)([14, 13, 12, 11], Timer())}
    few = {g.key: g for g in rollout(tiny, 1)([13], Timer())}
    for key, one in [*back.items(), *few.items()]:
        for a, b in zip(one.completions, forth[key].completions, strict=True):
            assert a.token_ids == b.token_ids
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    tokens = [c.token_ids for g in forth.values() for c in g.completions]
    assert len(set(tokens)) > 6
