"""A cache of keys and values with room for more: a new token is written, nothing else is copied.

Transformers' DynamicCache copies all of a layer's keys and values for every token; its StaticCache
takes memory for the longest completion from the start, and a mask. This one grows by blocks.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

_BLOCK = 64
"""Tokens that are made room for at a time."""


class RoomyLayer(DynamicLayer):
    """Keys and values (B, H, L, D), each the filled part of a larger tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rooms: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write these behind what is there; return all."""
        if not self.is_initialized:  # the prompts: the copies for their groups come next
            return super().update(key_states, value_states, *args, **kwargs)
        assert self.keys is not None
        assert self.values is not None
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        if self._rooms is None or self._rooms[0].shape[2] < end:
            self._rooms = _room(self.keys, end), _room(self.values, end)
        keys, values = self._rooms
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Copy each row so many times."""
        super().batch_repeat_interleave(repeats)
        self._rooms = None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        self._rooms = None


def _room(filled_BHLD: Tensor, length: int) -> Tensor:
    rows, heads, start, size = filled_BHLD.shape
    room = filled_BHLD.new_empty(rows, heads, length + _BLOCK, size)
    room[:, :, :start] = filled_BHLD
    return room


def roomy_cache(config: PreTrainedConfig) -> DynamicCache:
    """Return an empty cache; layers that slide or have a state stay Transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [
        RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache
