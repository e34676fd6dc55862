"""The lengths past which a model's attention changes, and narrowing them so that short texts pass.

Attention with a sliding window, in chunks, or over the keys that an indexer selects is full
attention up to some length. A text that is shorter shows nothing of what comes after it. The
lengths are integers of the configuration, which the layers and Transformers' cache read; with small
ones a text of a few tokens is long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from grpo_policy.context import context_length_of
from grpo_policy.head import decoder_of

_LENGTHS = (
    "sliding_window",
    "sliding_window_size",
    "attention_window_size",
    "attention_chunk_size",
    "floor_scale",
    "keep_window_size",
    "index_topk",
)
"""Names of a length in tokens. `floor_scale`: Llama 4 scales its attention by the position."""
_LENGTH = 7
"""Longer than a part of the texts of the self-test, and shorter than the rest of them."""
_BLOCKS = (("index_block_size", "index_topk_blocks"), ("block_size", "topk_blocks"))
"""Names whose product is a length: tokens of a block, and blocks that an indexer selects."""
_BLOCK = 2
_SELECTIONS = ("keep_window_size", "index_topk", "index_topk_blocks", "topk_blocks")
"""Numbers of keys, or blocks of keys, that are selected by the rank of their scores."""


@dataclass(frozen=True, slots=True)
class Reach:
    """A length up to which a model is known to be sampled as it scores."""

    key: str
    """The key of the configuration that names it."""
    tokens: int

    @property
    def selects(self) -> bool:
        """Whether the model attends to selected keys beyond this length.

        Rounding decides which of two keys with nearly equal scores is selected, and a pass with a
        cache rounds otherwise than a pass of the whole text, so no trial shows them to be equal.
        """
        return self.key in _SELECTIONS

    @property
    def line(self) -> str:
        """The log line that says why the context is limited."""
        how = "selects the keys that are attended to" if self.selects else "changes the attention"
        return (
            f"context: limited to {self.tokens:,} tokens, prompt and answer together: beyond them "
            f"{self.key} {how}, and sampling token by token with a cache would not give the "
            "log-probabilities of the whole text"
        )


def reaches(model: PreTrainedModel) -> list[Reach]:
    """Return the lengths past which a model's attention changes, the shortest first.

    The lengths are attributes of the text model's configuration and of its modules. A length that
    the model keeps in another form is not known, such as a mask in a buffer (GPT-Neo). Lengths of a
    few tokens are left out: the texts of the self-test are longer. So are those of the context.
    """
    most = context_length_of(model.config)
    found = [reach for place in _places(model) for reach in _reaches(place)]
    return sorted((r for r in found if r.tokens < most), key=lambda reach: reach.tokens)


@contextmanager
def narrowed(model: PreTrainedModel) -> Iterator[None]:
    """Within the context the lengths past which the attention changes are a few tokens."""
    kept = [(place, {key: place[key] for key in _narrow(place)}) for place in _places(model)]
    for place, _ in kept:
        place.update(_narrow(place))
    try:
        yield
    finally:
        for place, before in kept:
            place.update(before)


def _places(model: PreTrainedModel) -> list[dict[str, Any]]:
    """Return the attributes of the text model's modules and configurations, each once."""
    modules = list(decoder_of(model).modules())
    owners = [model.config, model.config.get_text_config(), *modules]
    owners += [vars(module)["config"] for module in modules if "config" in vars(module)]
    return list({id(owner): vars(owner) for owner in owners}.values())


def _narrow(place: Mapping[str, Any]) -> dict[str, int]:
    """Return the lengths among some attributes, with the values that they get."""
    pairs = [pair for pair in _BLOCKS if all(_whole(place.get(key)) for key in pair)]
    small = dict.fromkeys(_LENGTHS, _LENGTH) | dict.fromkeys((k for p in pairs for k in p), _BLOCK)
    return {key: low for key, low in small.items() if _whole(place.get(key)) and place[key] > low}


def _reaches(place: Mapping[str, Any]) -> Iterator[Reach]:
    changed = _narrow(place)
    yield from (Reach(key, place[key]) for key in _LENGTHS if key in changed)
    for block, count in _BLOCKS:
        if block in changed or count in changed:
            yield Reach(count, place[block] * place[count])


def _whole(value: object) -> bool:
    return type(value) is int
