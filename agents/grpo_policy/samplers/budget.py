"""The number of completions that are sampled at once: as many as have their caches in memory."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from grpo_envs.runtime.memory import MemoryExhausted, memory_metrics
from grpo_policy.cache_size import cache_bytes_a_token, window_bytes
from grpo_policy.policy import Policy

log = logging.getLogger(__name__)
_SHARE = 0.5
"""Share of the free memory for the cache: copies of rows and logits take memory, too."""


@dataclass(slots=True)
class Budget:
    """The number of rows that are sampled at once; it falls if memory runs out nevertheless."""

    rows: int
    """The most rows; if a prompt has more completions than this, their number."""
    tokens: int | None = None
    """Tokens in the cache at once, padding included (`sampler.batch_tokens`); None: as many as the
    free memory allows."""
    held: int | None = None
    """The most rows after memory ran out; None before."""
    tried: int = 0
    """The number of rows at the last start of rows."""
    _by_memory: int | None = None

    def measure(self, policy: Policy, dtype: torch.dtype, held: int = 0) -> None:
        """Measure the free memory, before something is sampled.

        Args:
            policy: The model.
            dtype: The dtype of the cache.
            held: Tokens in existing caches of this kind: their memory counts as free.
        """
        found = None if self.tokens else tokens_in_memory(policy, dtype)
        self._by_memory = None if found is None else found + int(_SHARE * held)

    def at_once(self, length: int, copies: int) -> int:
        """Return how many rows can be sampled at once, at least 1.

        Args:
            length: Tokens of the longest prompt and its answer.
            copies: Completions of each prompt.
        """
        limits = [max(self.rows, copies)]
        limits += [self.held] if self.held else []
        tokens = self.tokens or self._by_memory
        limits += [tokens // length] if tokens else []
        return max(1, min(limits))

    def beside(self, rows: int, length: int) -> float:
        """Return how many tokens may be in other caches beside `rows` rows of this length."""
        tokens = self.tokens or self._by_memory
        return tokens - rows * length if tokens else math.inf

    def halve(self) -> None:
        """Sample half as many rows at once from now on.

        Raises:
            MemoryExhausted: memory ran out with a single row.
        """
        if self.tried <= 1:
            raise MemoryExhausted(
                "out of memory while one completion is sampled. Turn sampler.max_new_tokens down, "
                "or sampler.precision=bf16."
            )
        self.held = self.tried // 2
        log.warning(
            "out of memory while %d completions are sampled: from now on %d at once "
            "(sampler.batch_tokens bounds them).",
            *(self.tried, self.held),
        )


def tokens_in_memory(policy: Policy, dtype: torch.dtype) -> int | None:
    """Return how many tokens' cache fits into half of the free memory; None if unknown.

    A model with recurrent layers only has no growing cache, and the size of a cache that only the
    model itself can make is unknown.
    """
    config = policy.model.config
    if not policy.caching.roomy or not hasattr(config.get_text_config(), "num_attention_heads"):
        return None
    free = _free(policy.device)
    whole = policy.caching.whole
    return None if free is None else tokens_in(free, config, dtype, whole=whole)


def tokens_in(
    free: float, config: PreTrainedConfig, dtype: torch.dtype, *, whole: bool = False
) -> int | None:
    """Return how many tokens' cache fits into half of `free` bytes; None without a cache."""
    size = cache_bytes_a_token(config, dtype, whole=whole) or window_bytes(config, dtype)
    return int(_SHARE * free / size) or 1 if size else None


def _free(device: torch.device) -> float | None:
    """Return the free bytes; on a GPU including those that PyTorch keeps reserved."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    left = memory_metrics().get("memory/left")
    return None if left is None else left * 2**20
