"""How often the host waits for the device while sampling: a count of what reads a value."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode, resolve_name
from transformers import AutoTokenizer

from grpo_policy.models import TINY
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import sample
from grpo_policy.selftest import settle
from tests.agents.test_selftest import LINEAR, model_of

_READS = (
    *("__bool__", "__int__", "__float__", "__index__", "__contains__", "item", "tolist", "cpu"),
    *("numpy", "nonzero", "argwhere", "equal", "masked_select", "unique", "bincount"),
)
TOKENS = 24
SHORT, LONG = (5, 6, 7, 8), (9, 10, 11, 12, 13, 14, 15)


class Reads(TorchFunctionMode):
    """Counts the calls that make the host wait for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = (resolve_name(func) or "").rpartition(".")[2]
        if name in _READS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def reads(policy: Policy, prompts: list[tuple[int, ...]]) -> Counter[str]:
    policy.eos_ids = ()
    found = Reads()
    with found:
        sample(policy, prompts, range(2 * len(prompts)), Decoding(max_new_tokens=TOKENS))
    return found.counts


def test_the_counter_counts() -> None:
    with Reads() as found:
        x = torch.tensor([1, 0])
        if x.sum() > 0:
            x.nonzero()
        int(x[0]), x.tolist(), x[0].item()
    assert found.counts == {"__bool__": 1, "nonzero": 1, "__int__": 1, "tolist": 1, "item": 1}


@pytest.mark.parametrize(
    ("kind", "keys", "prefill"),
    [
        pytest.param("qwen3", {}, 0, id="attention"),
        pytest.param("gemma3_text", {"head_dim": 8, "sliding_window": 8}, 0, id="sliding"),
        pytest.param("qwen3_5_text", LINEAR, 1, id="recurrent and attention"),
        pytest.param("bloom", {}, 0, id="ALiBi"),
        pytest.param("mamba", {}, 0, id="recurrent"),
    ],
)
def test_padding_is_read_no_oftener_than_none(
    monkeypatch: pytest.MonkeyPatch, kind: str, keys: dict[str, Any], prefill: int
) -> None:
    """One read at each look for ended rows, and those of the answers at the end.

    Recurrent layers look into the mask of a prompt, once a pass.
    """
    policy = Policy(model_of(kind, **keys), AutoTokenizer.from_pretrained(TINY))
    settle(policy, kind)
    for every in (1, 8):
        monkeypatch.setattr("grpo_policy.samplers.torch._LOOK_EVERY", {"cpu": every})
        plain, padded = reads(policy, [LONG, LONG[::-1]]), reads(policy, [SHORT, LONG])
        assert sum((padded - plain).values()) == prefill
        assert sum(plain.values()) <= TOKENS // every + 10
