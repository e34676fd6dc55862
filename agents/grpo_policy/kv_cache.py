"""A cache of keys and values with room for more: a new token is written, nothing else is copied.

Transformers' DynamicCache copies all of a layer's keys and values for every token; its StaticCache
is made for rows that begin together, and attends to all of its room. Here the room is taken at
once, for the longest prompt and answer, and rows of several caches can be put side by side.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel, cache_utils
from transformers.cache_utils import (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
)

_NOTHING = getattr(cache_utils, "DummyLayer", None)
"""Transformers' layer that keeps nothing; None before 5.20, which has no such layer."""
Part = tuple[Any, Tensor]
"""A cache, or a layer of one, and the numbers of its rows to take (on its device)."""


class RoomyLayer(DynamicLayer):
    """Keys and values (B, H, L, D), each the filled part of a larger tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = 0
        """Tokens to take room for at once; where they do not suffice, it doubles."""
        self._rooms: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write these behind what is there; return all."""
        if not self.is_initialized:  # the prompts: the copies for their groups come next
            return super().update(key_states, value_states, *args, **kwargs)
        assert self.keys is not None
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        if self._rooms is None or self._rooms[0].shape[2] < end:
            every = torch.arange(len(self.keys), device=self.keys.device)
            self.fill([(self, every)], start, max(self.room, 2 * end))
        assert self._rooms is not None
        keys, values = self._rooms
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def columns(self) -> tuple[Tensor, Tensor]:
        """Return keys and values of all tokens that there is room for, written or not."""
        assert self._rooms is not None
        return self._rooms

    def written(self, length: int) -> None:
        """Hold so many tokens: others were written into `columns` from outside."""
        self.keys, self.values = (whole[:, :, :length] for whole in self.columns())

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take these rows in place of all; a row may be taken several times, or not at all."""
        if self.is_initialized:
            length = self.get_seq_length()
            self.fill([(self, beam_idx)], length, max(self.room, length))

    def fill(self, parts: Sequence[Part], length: int, room: int) -> None:
        """Become these rows of some layers, the last `length` tokens of each; see `gathered`."""
        self.room = room
        keys, values = ([(getattr(x, name), r) for x, r in parts] for name in ("keys", "values"))
        self._rooms = gathered(keys, length, room), gathered(values, length, room)
        self.keys, self.values = (whole[:, :, :length] for whole in self._rooms)
        self.is_initialized = True


def gathered(parts: Sequence[tuple[Tensor, Tensor]], length: int, room: int) -> Tensor:
    """Return rows of some tensors (B, H, L, D) below each other, their last tokens side by side.

    Args:
        parts: Tensors and the numbers of their rows to take.
        length: Tokens of each row; before a shorter one stand zeros.
        room: Tokens to take memory for, where it is more than `length`.
    """
    first = parts[0][0]
    count = sum(len(rows) for _, rows in parts)
    whole = first.new_empty(count, first.shape[1], max(room, length), first.shape[3])
    start = 0
    for each_BHLD, rows in parts:
        part, start = whole[start : start + len(rows)], start + len(rows)
        own = min(length, each_BHLD.shape[2])
        part[:, :, : length - own].zero_()  # is masked, but must be a number
        part[:, :, length - own : length] = each_BHLD[rows, :, each_BHLD.shape[2] - own :]
    return whole


def roomy_cache(config: PreTrainedConfig) -> DynamicCache:
    """Return an empty cache; layers that slide or have a state stay Transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [
        RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def joined(parts: Sequence[Part], length: int, room: int) -> Any:
    """Return a cache of rows of these caches, right-aligned: the last `length` tokens of each.

    A layer of the caches is let go as soon as it is taken over, so that one layer at most is held
    twice.

    Args:
        parts: Caches, which are empty afterwards, and their rows.
        length: Tokens of the longest row.
        room: Tokens to take memory for.

    Raises:
        TypeError: a layer is of a kind that is not known to be a row apart from the others.
    """
    cache = copy(parts[0][0])
    cache.layers = []
    for number in range(len(parts[0][0].layers)):
        own = [(each.layers[number], rows) for each, rows in parts]
        cache.layers.append(_joined_layer(own, length, room))
        for each, _ in parts:
            each.layers[number] = None
    return cache


def _joined_layer(parts: Sequence[Part], length: int, room: int) -> Any:
    kind = type(parts[0][0])
    if _keeps_nothing(parts[0][0]):
        return parts[0][0]
    if kind is RoomyLayer:
        roomy = RoomyLayer()
        roomy.dtype, roomy.device = parts[0][0].dtype, parts[0][0].device
        roomy.fill(parts, length, room)
        return roomy
    if kind not in _JOINING:
        raise TypeError(f"rows of a {kind.__name__} cannot be put side by side")
    layer = copy(parts[0][0])
    if isinstance(layer, LinearAttentionLayer):
        for name in ("conv_states", "recurrent_states"):
            setattr(layer, name, _states([(getattr(x, name), rows) for x, rows in parts]))
    if isinstance(layer, DynamicLayer) and layer.keys is not None:
        kept = length
        if isinstance(layer, DynamicSlidingWindowLayer):
            kept = min(length, layer.sliding_window - 1)
        layer.keys = gathered([(x.keys, rows) for x, rows in parts], kept, kept)
        layer.values = gathered([(x.values, rows) for x, rows in parts], kept, kept)
        layer.cumulative_length = length
    return layer


_JOINING = (DynamicSlidingWindowLayer, LinearAttentionLayer, LinearAttentionAndFullAttentionLayer)
"""Transformers' own kinds of layers whose rows stand apart from each other."""


def _states(parts: Sequence[tuple[dict[int, Tensor | None], Tensor]]) -> dict[int, Tensor | None]:
    """Return the rows of some states, one below the other."""
    found: dict[int, Tensor | None] = {}
    for number in parts[0][0]:
        states = [(states[number], rows) for states, rows in parts]
        own = [state[rows] for state, rows in states if state is not None]
        found[number] = torch.cat(own) if own else None
    return found


def row_of(cache: Any, number: int, columns: slice) -> Any:
    """Return some columns of one row of a cache as a cache of its own, in memory of its own.

    Raises:
        TypeError: a layer does not hold every token: a window or a state cannot be cut.
    """
    own = copy(cache)
    own.layers = [_row_of_layer(layer, number, columns) for layer in cache.layers]
    return own


def _row_of_layer(layer: Any, number: int, columns: slice) -> Any:
    if _keeps_nothing(layer):
        return layer
    if type(layer) is not RoomyLayer:
        raise TypeError(f"a {type(layer).__name__} does not hold every token")
    own = RoomyLayer()
    own.dtype, own.device, own.is_initialized = layer.dtype, layer.device, True
    assert layer.keys is not None
    assert layer.values is not None
    row = slice(number, number + 1)
    own.keys, own.values = (x[row, :, columns].clone() for x in (layer.keys, layer.values))
    return own


def cut(cache: Any, length: int) -> None:
    """Leave the first `length` tokens of a cache that `row_of` made; no memory is freed."""
    for layer in cache.layers:
        if not _keeps_nothing(layer):
            layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]


def _keeps_nothing(layer: Any) -> bool:
    return not getattr(layer, "is_initialized", True) or type(layer) is _NOTHING


_ATTENTION, _RECURRENT = "past_key_values", "cache_params"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caching:
    """How a model is given what it remembers of the tokens before."""

    name: str = _ATTENTION
    """The argument of its `forward`, and the attribute of what that returns."""
    roomy: bool = True
    """Whether its first cache is ours; else the model makes one of its own kind."""
    joins: bool = True
    """Whether rows can join others that are on their way; else a batch ends before the next."""
    keeps: bool = True
    """Whether a row can leave with its cache, and go on behind it with several tokens at once."""

    def prefill(
        self, model: PreTrainedModel, past: Any = None, **inputs: Any
    ) -> tuple[Any, Tensor]:
        """Pass the prompts through the model; return the cache that it filled, and its logits.

        Args:
            model: The model.
            past: A cache of the tokens before, which is filled on; None: there are none.
            inputs: Of the model's `forward`.
        """
        past = roomy_cache(model.config) if past is None and self.roomy else past
        given = {self.name: past} if self.roomy else {}
        output = model(**inputs, **given, use_cache=True)
        cache = given[self.name] if self.roomy else getattr(output, self.name)
        return cache, output.logits

    def gather(self, parts: Sequence[Part], length: int, room: int) -> Any:
        """Return a cache of rows of these; a row may be taken several times, or not at all.

        Args:
            parts: Caches, which are of no use afterwards, and their rows; one cache where rows
                cannot join.
            length: Tokens of the longest row; where rows cannot join, all that are there.
            room: Tokens to take memory for.
        """
        if self.joins:
            return joined(parts, length, room)
        ((cache, rows),) = parts
        if not self.roomy:
            cache.batch_select_indices(rows)
            return cache
        for layer in cache.layers:
            if isinstance(layer, RoomyLayer):
                layer.room = room
        cache.reorder_cache(rows)  # which layers with a recurrent state can, too
        return cache

    def mask(self, mask_RL: Tensor | None) -> Tensor | None:
        """Return the mask for one more token; a recurrent state has no padding in it."""
        return mask_RL if self.name == _ATTENTION else None


def ways_to_cache(parameters: Container[str]) -> list[Caching]:
    """Return how a model with these parameters of `forward` may be given its cache, best first.

    Whether rows can join, or leave and come back, are other questions.

    Models of recurrent layers alone (Mamba) call the same object `cache_params`.
    """
    names = [name for name in (_ATTENTION, _RECURRENT) if name in parameters]
    return [
        Caching(name=name, roomy=roomy, joins=False, keeps=False)
        for name in names
        for roomy in (True, False)
    ]
