"""A decoding step as one CUDA graph: from step to step only values change.

Python launches the hundreds of kernels of a step more slowly than a GPU runs them. A CUDA graph is
launched at once, but it repeats the captured operations on the same memory. So the tokens, their
positions, the next cache column and the mask are tensors that a step changes in place, and
attention covers a fixed number of columns, including columns that are not filled yet.
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
"""Attention covers columns up to the next multiple of this; beyond it a new step is made."""
_WARM = 3
"""Steps before a capture, in which libraries choose algorithms and allocate memory."""
_WORTH = 32
"""The fewest free columns for which a capture is worth its time, that of a few steps."""

Choose = Callable[[Tensor, Tensor], Tensor]
"""Draws tokens (R) from logits (R, V) for the rows in these slots (R), and records them."""


@dataclass(slots=True)
class Fixing:
    """How a sampler takes its steps."""

    fix: bool = False
    """Whether steps repeat the same operations on the same memory, if the model allows it."""
    capture: bool = False
    """Whether these operations are captured as a CUDA graph."""


class FixedLayer(DynamicLayer):
    """Keys and values (B, H, L, D) of a fixed number of columns, filled or not."""

    def __init__(self, keys: Tensor, values: Tensor, column_1: Tensor) -> None:
        """Take the tensors to write to, and the number of the next column."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.whole = keys, values
        self.column_1 = column_1
        self.keys, self.values = self.whole
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write key and value of one token; return all columns."""
        for whole, states in zip(self.whole, (key_states, value_states), strict=True):
            whole.index_copy_(2, self.column_1, states)
        return self.whole


class FixedStep:
    """Samples the next token of a fixed set of rows, repeatedly, until a row leaves or joins."""

    def __init__(self, rows: Rows, choose: Choose, fixing: Fixing) -> None:
        """Take over the rows; `end` gives them back.

        Args:
            rows: Rows whose cache holds every token in every layer.
            choose: Draws the tokens; called with the same slots each time.
            fixing: Whether to capture the step; switched off if the capture fails.
        """
        self.rows, self.choose, self.fixing = rows, choose, fixing
        self.filled: int
        cache, self.filled, self.tokens_R, self.lengths_R = rows.held()
        self.layers: list[RoomyLayer] = cache.layers
        room = min(layer.columns()[0].shape[2] for layer in self.layers)
        self.most: int = min((self.filled // _COLUMNS + 1) * _COLUMNS, room)
        """Columns that attention covers."""
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
            whole[:, :, self.filled :].zero_()  # masked, but must be finite
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
        """Capture the operations without executing them; if that fails, go on without a graph."""
        try:
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                self.operations()
        except RuntimeError as error:  # an operation makes the host wait; the text is long
            if ran_out(error):
                raise
            self.fixing.fix = self.fixing.capture = False
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("sampling without a CUDA graph, as sampler.capture=off does: %s", cause)
        else:
            self.captured = captured

    def operations(self) -> None:
        """Run the operations that a graph repeats; no value reaches Python."""
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
    """Return whether `FixedStep` can sample these rows.

    It can if every layer keeps every token and attention takes any mask.
    """
    policy, (cache, *_) = rows.policy, rows.held()
    layers = getattr(cache, "layers", None) or [None]
    kept = all(type(layer) is RoomyLayer and layer.is_initialized for layer in layers)
    return kept and policy.takes_pairs and policy.fixes
