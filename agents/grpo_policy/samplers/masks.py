"""Padding masks that attention uses without reading their values on the host.

Transformers reads a mask before each pass and drops it if it masks nothing, so the host waits for
the device at every token. The sampler knows which batches are padded, and passes no mask for the
others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

_KIND = "sdpa"
"""The attention whose masks Transformers reads. It does not read those of `eager`; flash attention
must read its masks, because it removes the padding."""


@contextmanager
def taken_as_given() -> Iterator[None]:
    """Within the context attention uses padding masks without reading their values."""
    usual = ALL_MASK_ATTENTION_FUNCTIONS[_KIND]
    ALL_MASK_ATTENTION_FUNCTIONS[_KIND] = _mask
    try:
        yield
    finally:
        ALL_MASK_ATTENTION_FUNCTIONS[_KIND] = usual


def _mask(**given: Any) -> Tensor | None:
    """Return the attention mask (B, 1, Q, L); None if no mask is given and none is needed."""
    if given.get("attention_mask") is not None:
        given["allow_is_causal_skip"] = False
    return sdpa_mask(**given)
