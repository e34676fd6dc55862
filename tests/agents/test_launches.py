"""What a sampled token costs a GPU, counted: it may fall, and may not rise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from grpo_policy.models import TINY, load_policy
from grpo_policy.policy import Policy
from tests.support.counters import HostReads, Operations, a_token, as_on_a_gpu

MOST = {
    "equal prompts": (False, 250, 1),
    "padded prompts": (True, 261, 1),
}
"""For the bundled model: operations and host reads a token. Turn a number down when it falls."""


@pytest.fixture
def tiny() -> Policy:
    """The bundled model."""
    return as_on_a_gpu(load_policy(str(TINY)))


@pytest.mark.parametrize(("padded", "operations", "reads"), MOST.values(), ids=MOST.keys())
def test_a_token_takes_no_more_than_it_did(
    tiny: Policy, padded: bool, operations: float, reads: float
) -> None:
    assert 100 < a_token(tiny, Operations, padded=padded) <= operations
    assert a_token(tiny, HostReads, padded=padded) <= reads


def test_one_more_is_seen(tiny: Policy) -> None:
    """An operation and a look at its result, in every pass of the model."""
    counts = (Operations, HostReads)
    before = [a_token(tiny, count, padded=False) for count in counts]

    def look(module: Any, args: Any, output: Any) -> None:
        bool(output.logits.amax())

    hook = tiny.model.register_forward_hook(look)
    after = [a_token(tiny, count, padded=False) for count in counts]
    hook.remove()
    # What the host reads is an operation, too.
    assert [new - old for new, old in zip(after, before, strict=True)] == [2, 1]


def test_what_counts_as_a_read() -> None:
    x = torch.arange(4)
    with HostReads() as reads:
        assert x.sum() == 6
        assert x.tolist()[int(x[1])] == 1
        assert len(x[x > 1]) == len(torch.where(x < 2)[0]) == 2
        assert 3 in x
        torch.where(x > 1, x, 0)[1:] += x[None, :3][0]
    names = ("__bool__", "tolist", "__int__", "__getitem__", "where", "__contains__")
    assert reads.names == dict.fromkeys(names, 1)
