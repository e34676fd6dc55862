"""Masks of padding that are used as they are: nobody asks the device whether there is any.

Transformers looks into a mask before each pass, and leaves it out where it masks nothing: the host
waits for the device once a token. The sampler knows which batches are padded, and gives the others
no mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

_KIND = "sdpa"
"""The attention whose masks Transformers looks into; that of `eager` it does not, and flash
attention has to, as it takes the padding out."""


@contextmanager
def taken_as_given() -> Iterator[None]:
    """Let a model's attention use a mask of padding without a look into it."""
    usual = ALL_MASK_ATTENTION_FUNCTIONS[_KIND]
    ALL_MASK_ATTENTION_FUNCTIONS[_KIND] = _mask
    try:
        yield
    finally:
        ALL_MASK_ATTENTION_FUNCTIONS[_KIND] = usual


def _mask(**given: Any) -> Tensor | None:
    """Return who attends to whom (B, 1, Q, L); None where no mask is given and none is needed."""
    if given.get("attention_mask") is not None:
        given["allow_is_causal_skip"] = False
    return sdpa_mask(**given)
