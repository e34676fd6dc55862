"""A cache of keys and values with room for more: a new token is written, nothing else is copied.

Transformers' DynamicCache copies all of a layer's keys and values for every token; its StaticCache
takes memory for the longest completion from the start, and a mask. This one grows by blocks.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
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

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take these rows in place of all; a row may be taken several times, or not at all."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
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


_ATTENTION, _RECURRENT = "past_key_values", "cache_params"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caching:
    """How a model is given what it remembers of the tokens before."""

    name: str = _ATTENTION
    """The argument of its `forward`, and the attribute of what that returns."""
    roomy: bool = True
    """Whether its first cache is ours; else the model makes one of its own kind."""

    def prefill(self, model: PreTrainedModel, **inputs: Any) -> tuple[Any, Tensor]:
        """Pass the prompts through the model; return the cache that it filled, and its logits."""
        given = {self.name: roomy_cache(model.config)} if self.roomy else {}
        output = model(**inputs, **given, use_cache=True)
        cache = given[self.name] if self.roomy else getattr(output, self.name)
        return cache, output.logits

    def take(self, cache: Any, rows: Tensor) -> None:
        """Take these rows in place of all; a row may be taken several times, or not at all."""
        if self.roomy:
            cache.reorder_cache(rows)  # which layers with a recurrent state can, too
        else:
            cache.batch_select_indices(rows)

    def mask(self, mask_RL: Tensor | None) -> Tensor | None:
        """Return the mask for one more token; a recurrent state has no padding in it."""
        return mask_RL if self.name == _ATTENTION else None


def ways_to_cache(parameters: Container[str]) -> list[Caching]:
    """Return how a model with these parameters of `forward` may be given its cache, best first.

    Models of recurrent layers alone (Mamba) call the same object `cache_params`.
    """
    names = [name for name in (_ATTENTION, _RECURRENT) if name in parameters]
    return [Caching(name=name, roomy=roomy) for name in names for roomy in (True, False)]
