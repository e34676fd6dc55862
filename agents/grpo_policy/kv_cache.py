"""A cache of keys and values with spare room: a new token is written without copying the others.

Transformers' DynamicCache copies all keys and values of a layer for every token. Its StaticCache is
for rows that begin together, and attends to its whole room. This cache allocates the room for the
longest prompt and answer at once, and rows of several caches can be joined.
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
"""A cache or one of its layers, and the numbers of the rows to take (on its device)."""


class RoomyLayer(DynamicLayer):
    """Keys and values (B, H, L, D), each the filled part of a larger tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = 0
        """Tokens to allocate at once; if there are more tokens, the room is doubled."""
        self._rooms: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append these keys and values; return all of them."""
        if not self.is_initialized:  # the prompts; their copies for the groups follow
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
        """Return keys and values (B, H, room, D), including columns that are not written yet."""
        assert self._rooms is not None
        return self._rooms

    def written(self, length: int) -> None:
        """Set the number of tokens, after tokens were written to `columns` directly."""
        self.keys, self.values = (whole[:, :, :length] for whole in self.columns())

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Replace the rows by these; a row may be taken several times, or not at all."""
        if self.is_initialized:
            length = self.get_seq_length()
            self.fill([(self, beam_idx)], length, max(self.room, length))

    def fill(self, parts: Sequence[Part], length: int, room: int) -> None:
        """Take over these rows of some layers, the last `length` tokens of each; see `gathered`."""
        self.room = room
        keys, values = ([(getattr(x, name), r) for x, r in parts] for name in ("keys", "values"))
        self._rooms = gathered(keys, length, room), gathered(values, length, room)
        self.keys, self.values = (whole[:, :, :length] for whole in self._rooms)
        self.is_initialized = True


def gathered(parts: Sequence[tuple[Tensor, Tensor]], length: int, room: int) -> Tensor:
    """Return rows of some tensors (B, H, L, D) in one tensor, right-aligned.

    Args:
        parts: Tensors and the numbers of the rows to take.
        length: Tokens of each row; a shorter row is padded with zeros on the left.
        room: Tokens to allocate, if more than `length`.
    """
    first = parts[0][0]
    count = sum(len(rows) for _, rows in parts)
    whole = first.new_empty(count, first.shape[1], max(room, length), first.shape[3])
    start = 0
    for each_BHLD, rows in parts:
        part, start = whole[start : start + len(rows)], start + len(rows)
        own = min(length, each_BHLD.shape[2])
        part[:, :, : length - own].zero_()  # masked, but must be finite
        part[:, :, length - own : length] = each_BHLD[rows, :, each_BHLD.shape[2] - own :]
    return whole


def roomy_cache(config: PreTrainedConfig, *, whole: bool = False) -> DynamicCache:
    """Return an empty cache; layers with a window or a state stay Transformers' own.

    Args:
        config: The configuration of the model.
        whole: Whether layers with a window keep every token, too.
    """
    kinds = (DynamicLayer, DynamicSlidingWindowLayer) if whole else (DynamicLayer,)
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) in kinds else layer for layer in cache.layers]
    return cache


def joined(parts: Sequence[Part], length: int, room: int) -> Any:
    """Return a cache of rows of these caches, right-aligned: the last `length` tokens of each.

    Each layer is freed as soon as it is copied, so at most one layer is held twice.

    Args:
        parts: Caches, which are empty afterwards, and their rows.
        length: Tokens of the longest row.
        room: Tokens to allocate.

    Raises:
        TypeError: a layer is of a kind whose rows are not known to be independent.
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
"""Transformers' kinds of layers whose rows are independent of each other."""


def _states(parts: Sequence[tuple[dict[int, Tensor | None], Tensor]]) -> dict[int, Tensor | None]:
    """Return the rows of some states, concatenated."""
    found: dict[int, Tensor | None] = {}
    for number in parts[0][0]:
        states = [(states[number], rows) for states, rows in parts]
        own = [state[rows] for state, rows in states if state is not None]
        found[number] = torch.cat(own) if own else None
    return found


def row_of(cache: Any, number: int, columns: slice) -> Any:
    """Return some columns of one row of a cache as a new cache with memory of its own.

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
    """Keep only the first `length` tokens of a cache of `row_of`; no memory is freed."""
    for layer in cache.layers:
        if not _keeps_nothing(layer):
            layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]


def _keeps_nothing(layer: Any) -> bool:
    return not getattr(layer, "is_initialized", True) or type(layer) is _NOTHING


_ATTENTION, _RECURRENT = "past_key_values", "cache_params"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caching:
    """How a model takes the cache of earlier tokens."""

    name: str = _ATTENTION
    """The name of the argument of the model's `forward`, and of the attribute of its result."""
    roomy: bool = True
    """Whether the first cache is a `roomy_cache`; if not, the model makes its own kind of cache."""
    whole: bool = False
    """Whether a `roomy_cache` keeps every token where the configuration names a window: a model
    whose attention has none needs them all."""
    joins: bool = True
    """Whether new rows can join rows in progress; if not, a batch ends before the next begins."""
    keeps: bool = True
    """Whether a row can leave with its cache and later continue from it with several tokens."""

    def prefill(
        self, model: PreTrainedModel, past: Any = None, **inputs: Any
    ) -> tuple[Any, Tensor]:
        """Pass the prompts through the model; return the filled cache and the logits.

        Args:
            model: The model.
            past: A cache of earlier tokens, which is extended; None: there are none.
            inputs: Arguments of the model's `forward`.
        """
        if past is None and self.roomy:
            past = roomy_cache(model.config, whole=self.whole)
        given = {self.name: past} if self.roomy else {}
        output = model(**inputs, **given, use_cache=True)
        cache = given[self.name] if self.roomy else getattr(output, self.name)
        return cache, output.logits

    def gather(self, parts: Sequence[Part], length: int, room: int) -> Any:
        """Return a cache of rows of these; a row may be taken several times, or not at all.

        Args:
            parts: Caches, which cannot be used afterwards, and their rows; a single cache if rows
                cannot join.
            length: Tokens of the longest row; if rows cannot join, all tokens of the cache.
            room: Tokens to allocate.
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
        cache.reorder_cache(rows)  # layers with a recurrent state support it, too
        return cache

    def mask(self, mask_RL: Tensor | None) -> Tensor | None:
        """Return the mask for one more token; None for a recurrent state, which has no padding."""
        return mask_RL if self.name == _ATTENTION else None


def ways_to_cache(parameters: Container[str]) -> list[Caching]:
    """Return the ways in which a model with these `forward` parameters may take a cache.

    The best comes first. `joins` and `keeps` are False; they are tried separately. Models with
    recurrent layers only (Mamba) call the cache `cache_params`.
    """
    names = [name for name in (_ATTENTION, _RECURRENT) if name in parameters]
    return [
        Caching(name=name, roomy=roomy, whole=whole, joins=False, keeps=False)
        for name in names
        for roomy, whole in ((True, False), (True, True), (False, False))
    ]
