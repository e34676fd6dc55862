"""The decode step is one graph: nothing in it depends on a value that the host would read."""

from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from grpo_policy.models import TINY
from grpo_policy.policy import Policy
from grpo_policy.samplers.rows import decode
from tests.agents.test_selftest import LINEAR, model_of

PROMPTS = torch.randint(500, (3, 9), generator=torch.Generator().manual_seed(0))
PADS = torch.tensor([0, 4, 2])


def cache_of(policy: Policy) -> tuple[Any, torch.Tensor]:
    """The cache of padded prompts with room for more, and their mask."""
    mask_RL = (torch.arange(20) >= PADS[:, None]).long()
    cache, _ = policy.caching.prefill(
        policy.model, input_ids=PROMPTS, attention_mask=mask_RL[:, :9]
    )
    return policy.caching.gather([(cache, torch.arange(3))], 9, 20), mask_RL


@pytest.mark.parametrize(
    ("kind", "keys", "padded"),
    [
        pytest.param("qwen3", {}, True, id="attention"),
        pytest.param("qwen3", {}, False, id="without a mask", marks=pytest.mark.slow),
        pytest.param(
            *("gemma3_text", {"head_dim": 8, "sliding_window": 6}, True),
            id="sliding",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("qwen3_5_text", LINEAR, True), id="recurrent and attention", marks=pytest.mark.slow
        ),
    ],
)
@torch.no_grad()
def test_the_step_is_one_graph(kind: str, keys: dict[str, Any], padded: bool) -> None:
    """Compiled whole, it gives the logits of the step as it is, token after token."""
    torch._dynamo.reset()
    policy = Policy(model_of(kind, **keys), AutoTokenizer.from_pretrained(TINY))
    compiled = torch.compile(decode, fullgraph=True, backend="eager", dynamic=True)
    logits = []
    for step in (decode, compiled):
        cache, mask_RL = cache_of(policy)
        for t in range(3):
            logits_RV = step(
                policy,
                cache,
                torch.tensor([5, 6, 7]) + t,
                9 + t - PADS,
                mask_RL=mask_RL[:, : 10 + t] if padded else None,
            )
        logits.append(logits_RV)
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-5)
