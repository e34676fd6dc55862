"""A sampled token as one CUDA graph: from token to token values change, and nothing else.

Python starts a token's hundreds of kernels more slowly than a GPU runs them. A graph is started at
once, but repeats what was captured: the same operations on the same memory. So here the tokens,
their positions, the column of the cache that is written next and the mask are tensors that a step
changes in place, and attention reaches over a fixed number of columns, behind the filled ones, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from grpo_envs.runtime.memory import ran_out
from grpo_policy.kv_cache import RoomyLayer
from grpo_policy.samplers.rows import Rows, decode

log = logging.getLogger(__name__)
_COLUMNS = 256
"""Attention reaches to the next multiple of so many columns; then a step is made anew."""
_WARM = 3
"""Steps before a capture: what libraries choose and allocate at first is no part of a graph."""
_WORTH = 32
"""Tokens that there must be columns for: a capture takes the time of a few steps."""

Choose = Callable[[Tensor, Tensor], Tensor]
"""Draws tokens (R) from logits (R, V) for the rows in these slots (R), and writes them down."""


@dataclass(slots=True)
class Fixing:
    """How a sampler takes its steps."""

    fix: bool = False
    """Whether they are the same operations on the same memory, where the model allows it."""
    capture: bool = False
    """Whether these are captured as a CUDA graph."""


class FixedLayer(DynamicLayer):
    """Keys and values (B, H, L, D) of a fixed number of columns, filled or not."""

    def __init__(self, keys: Tensor, values: Tensor, column_1: Tensor) -> None:
        """Take tensors to write into, and the number of the column that is written next."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.whole = keys, values
        self.column_1 = column_1
        self.keys, self.values = self.whole
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write those of one token; return all columns."""
        for whole, states in zip(self.whole, (key_states, value_states), strict=True):
            whole.index_copy_(2, self.column_1, states)
        return self.whole


class FixedStep:
    """Samples the next token of rows again and again, as long as none leaves or joins."""

    def __init__(self, rows: Rows, choose: Choose, fixing: Fixing) -> None:
        """Take over the rows as they are; `end` gives them back.

        Args:
            rows: Their cache holds every token of every layer.
            choose: Called with the same slots each time.
            fixing: Whether to capture the step; switched off where it cannot be captured.
        """
        self.rows, self.choose, self.fixing = rows, choose, fixing
        self.filled: int
        cache, self.filled, self.tokens_R, self.lengths_R = rows.held()
        self.layers: list[RoomyLayer] = cache.layers
        room = min(layer.columns()[0].shape[2] for layer in self.layers)
        self.most: int = min((self.filled // _COLUMNS + 1) * _COLUMNS, room)
        """Columns that attention reaches over."""
        device = self.tokens_R.device
        self.column_1 = torch.full((1,), self.filled, device=device)
        columns_L = torch.arange(self.most, device=device)
        first_R1 = self.filled - self.lengths_R[:, None]
        self.mask_R11L = ((columns_L >= first_R1) & (columns_L < self.filled))[:, None, None]
        self.cache = copy(cache)
        self.cache.layers = [self._fixed(layer) for layer in self.layers]
        self.taken = 0
        self.captured: torch.cuda.CUDAGraph | None = None

    def _fixed(self, layer: RoomyLayer) -> FixedLayer:
        keys, values = (whole[:, :, : self.most] for whole in layer.columns())
        for whole in (keys, values):
            whole[:, :, self.filled :].zero_()  # is masked, but must be a number
        return FixedLayer(keys, values, self.column_1)

    @property
    def full(self) -> bool:
        """Whether there is no column for another token."""
        return self.filled >= self.most

    def __call__(self) -> None:
        """Sample a token for each row."""
        left = self.most - self.filled
        if self.captured is None and self.taken >= _WARM and left >= _WORTH and self.fixing.capture:
            self._capture()
        if self.captured is None:
            self.operations()
        else:
            self.captured.replay()
        self.rows.stepped()
        self.taken, self.filled = self.taken + 1, self.filled + 1

    def _capture(self) -> None:
        """Capture the operations, which does none of them; go on without where that fails."""
        try:
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                self.operations()
        except RuntimeError as error:  # of an operation for which the host waits, in many words
            if ran_out(error):
                raise
            self.fixing.fix = self.fixing.capture = False
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("sampling without a CUDA graph, as sampler.capture=off does: %s", cause)
        else:
            self.captured = captured

    def operations(self) -> None:
        """Do what a graph repeats: Python knows no value of it."""
        self.mask_R11L.index_fill_(-1, self.column_1, True)
        logits_RV = decode(
            *(self.rows.policy, self.cache, self.tokens_R, self.lengths_R), mask_RL=self.mask_R11L
        )
        self.tokens_R.copy_(self.choose(logits_RV, self.rows.slots_R))
        self.lengths_R.add_(1)
        self.column_1.add_(1)

    def end(self) -> None:
        """Give the rows back."""
        for layer in self.layers:
            layer.written(self.filled)


def fits(rows: Rows) -> bool:
    """Return whether a step of these rows can be fixed.

    Every layer keeps every token, and attention takes a mask of who attends to whom as it is given.
    """
    policy, (cache, *_) = rows.policy, rows.held()
    layers = getattr(cache, "layers", None) or [None]
    kept = all(type(layer) is RoomyLayer and layer.is_initialized for layer in layers)
    return kept and policy.takes_pairs and policy.fixes
