"""Counters of what a GPU has to be given, and of what it is waited for, on any device.

Every operation that PyTorch dispatches is at least one kernel. Every value that the host reads of a
tensor makes it wait until all kernels before have run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import TorchSampler

_READS = {
    *("__bool__", "__int__", "__float__", "__index__", "__contains__", "item", "tolist", "numpy"),
    *("cpu", "nonzero", "argwhere", "unique", "unique_consecutive", "masked_select", "equal"),
}
_FEW, _MANY = 8, 24
"""Tokens of two samplings: what the second takes more is decoding alone, no prefill."""


class Operations(TorchDispatchMode):
    """Counts dispatched operations; views cost nothing on a device and do not count."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.total += not func.is_view
        return func(*args, **(kwargs or {}))


class HostReads(TorchFunctionMode):
    """Counts values of tensors that the host reads, by the name of the function."""

    def __init__(self) -> None:
        super().__init__()
        self.names = Counter[str]()

    @property
    def total(self) -> int:
        return self.names.total()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READS or _by_mask(name, args):
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


def _by_mask(name: str, args: Any) -> bool:
    """Return whether a tensor is taken apart by a mask, whose ones are counted for that."""
    if name == "where":
        return len(args) == 1
    if name != "__getitem__":
        return False
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in index)


Count = Operations | HostReads


def as_on_a_gpu(policy: Policy) -> Policy:
    """Undo what is done for a CPU alone: its norms take fewer passes in more operations."""
    for layer in policy.model.modules():
        if type(layer).__name__.endswith("RMSNorm"):
            vars(layer).pop("forward", None)
    return policy


def a_token(policy: Policy, count: Callable[[], Count], *, padded: bool) -> float:
    """Return what a token of 4 rows costs in the sampler, in what `count` counts.

    Args:
        policy: Its completions get no end.
        count: Makes a counter.
        padded: Whether the two prompts differ in length.
    """
    asked = [tuple(range(5, 25)), tuple(range(5, 15 if padded else 25))]
    ends, policy.eos_ids = policy.eos_ids, (len(policy.model.get_input_embeddings().weight),)
    totals: list[int] = []
    for tokens in (_FEW, _MANY):
        with count() as counted:
            list(TorchSampler(policy).sample(asked, range(4), Decoding(max_new_tokens=tokens)))
        totals.append(counted.total)
    policy.eos_ids = ends
    return (totals[1] - totals[0]) / (_MANY - _FEW)
