"""Attention of packs on a CPU, where a masked pair of tokens costs as much as any other.

Most pairs of a pack belong to different completions of a group. Here each completion is a row of
queries over the keys of its prompt and its own keys. The layers' matrices still multiply packs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from grpo_policy.block_attention import attention, in_order

_MOST_KEYS = 2
"""The most keys of all rows per token of the packs: the prompt's keys are copied to each row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """B rows of at most T queries and S keys, taken from K packs of L tokens; see `lay_out`.

    Positions are among the K * L tokens of the packs. The K prompts, of at most P tokens, come
    first.
    """

    queries_N: Tensor
    """The position of each query: K * P of prompts, then B * T of completions."""
    keys_N: Tensor
    """The position of each key: K * P of prompts, then B * S of the rows (prompt and own keys)."""
    bias_B1TS: Tensor
    """0 where a query attends to a key, -inf elsewhere."""
    back_N: Tensor
    """For each token of the packs, its index in `queries_N`."""
    prompts: tuple[int, int]
    """K and P."""
    _shared: dict[tuple[torch.dtype, int], Tensor] = field(default_factory=dict)

    def bias(self, dtype: torch.dtype, shared: int) -> Tensor:
        """Return `bias_B1TS` repeated for `shared` query heads per key head, cached."""
        kind = dtype, shared
        if kind not in self._shared:
            self._shared[kind] = self.bias_B1TS.to(dtype).repeat(1, 1, shared, 1)
        return self._shared[kind]


def lay_out(
    starts_B: Tensor, prompts_B: Tensor, lengths_B: Tensor, *, pack_B: Tensor, size: int
) -> Rows | None:
    """Return the rows of packs; None if attention over whole packs is cheaper.

    Args:
        starts_B: The position in its pack at which each completion starts.
        prompts_B: Tokens of its prompt, which starts at 0.
        lengths_B: Tokens of the completion.
        pack_B: The number of its pack.
        size: Tokens of a pack (L), padding included.
    """
    rows, packs = len(pack_B), int(pack_B[-1]) + 1
    prompt, length = int(prompts_B.max()), int(lengths_B.max())
    pairs = rows * length * (prompt + length) + packs * prompt * prompt
    if rows * (prompt + length) > _MOST_KEYS * packs * size or pairs >= packs * size * size:
        return None
    places_P = torch.arange(prompt, device=pack_B.device)
    places_T = torch.arange(length, device=pack_B.device)
    first_B1 = (pack_B * size)[:, None]
    own_BT = places_T.minimum(lengths_B[:, None] - 1) + starts_B[:, None] + first_B1
    shared_BP = places_P.minimum(prompts_B[:, None] - 1) + first_B1
    before_BTP = (places_P < prompts_B[:, None])[:, None].expand(-1, length, -1)
    causal_BTT = (places_T <= places_T[:, None]).expand(rows, -1, -1)
    attends_BTS = torch.cat([before_BTP, causal_BTT], dim=-1)
    back_N = torch.zeros(packs * size, dtype=torch.long, device=pack_B.device)
    packed_KP = torch.arange(packs, device=pack_B.device)[:, None] * size + places_P
    back_N[packed_KP] = torch.arange(packs * prompt, device=pack_B.device).view(packs, prompt)
    written_BT = places_T < lengths_B[:, None]
    here_BT = torch.arange(rows * length, device=pack_B.device).view(rows, length)
    back_N[own_BT[written_BT]] = packs * prompt + here_BT[written_BT]
    prompts_N = packed_KP.flatten()
    return Rows(
        queries_N=torch.cat([prompts_N, own_BT.flatten()]),
        keys_N=torch.cat([prompts_N, torch.cat([shared_BP, own_BT], dim=1).flatten()]),
        bias_B1TS=torch.zeros(attends_BTS.shape).masked_fill_(~attends_BTS, -torch.inf)[:, None],
        back_N=back_N,
        prompts=(packs, prompt),
    )


def by_rows(pairs_K1LL: Tensor, rows: Rows | None) -> Tensor:
    """Return the mask, marked so that attention computes by rows; to other code it is ordinary."""
    if rows is not None:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = _attention
        setattr(pairs_K1LL, "rows", rows)  # noqa: B010 - a tensor declares no such attribute
    return pairs_K1LL


def _attention(module: nn.Module, *given: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    """Compute attention as Transformers does with sdpa, by rows if the mask is marked so.

    Args:
        module: The attention layer.
        given: Queries, keys, values (K, H, L, D), and the mask, unless it is among the options.
        options: Other keyword arguments of the layer, such as `scaling`.
    """
    query, key, value, mask = in_order(given, options)
    rows: Rows | None = getattr(mask, "rows", None)
    if rows is None:
        return attention(module, query, key, value, mask, **options)
    taken = [_taken(query, rows.queries_N), _taken(key, rows.keys_N), _taken(value, rows.keys_N)]
    count = rows.prompts[0] * rows.prompts[1]
    of_prompts = [x[:count].unflatten(0, rows.prompts).transpose(1, 2) for x in taken]
    of_answers = [x[count:] for x in taken]
    prompts_KPHD, _ = attention(module, *of_prompts, None, **options)
    answers_NHD = _answers(of_answers, rows, options.get("scaling"))
    found = torch.cat([prompts_KPHD.flatten(0, 1).flatten(1), answers_NHD.flatten(1)])
    packs, heads, size, _ = query.shape
    return found.index_select(0, rows.back_N).view(packs, size, heads, -1), None


def _taken(states_KHLD: Tensor, places_N: Tensor) -> Tensor:
    """Return the states (N, H, D) at positions of the packs."""
    states_NE = states_KHLD.transpose(1, 2).flatten(0, 1).flatten(1)
    taken_NE = states_NE.index_select(0, places_N)
    return taken_NE.view(len(places_N), states_KHLD.shape[1], -1)


def _answers(states: Sequence[Tensor], laid: Rows, scale: float | None) -> Tensor:
    """Return the attention output of the completions' tokens (B * T, H, D).

    Query heads that share a key head are treated as more queries of this head: no key is copied.

    Args:
        states: Queries (B * T, H, D), keys and values (B * S, key heads, D).
        laid: The rows.
        scale: Scale of the products; None: 1 / sqrt(D).
    """
    query_NHD, *key_and_value = states
    rows, _, length, keys = laid.bias_B1TS.shape
    shared = query_NHD.shape[1] // key_and_value[0].shape[1]
    query_BTHGD = query_NHD.view(rows, length, -1, shared, query_NHD.shape[-1])
    key_BHSD, value_BHSD = (x.view(rows, keys, *x.shape[1:]).transpose(1, 2) for x in key_and_value)
    found_BHND = scaled_dot_product_attention(
        query_BTHGD.permute(0, 2, 3, 1, 4).flatten(2, 3),
        key_BHSD,
        value_BHSD,
        attn_mask=laid.bias(query_NHD.dtype, shared),
        scale=scale,
    )
    found_BHGTD = found_BHND.view(rows, -1, shared, length, found_BHND.shape[-1])
    return found_BHGTD.permute(0, 3, 1, 2, 4).reshape(rows * length, -1, found_BHND.shape[-1])
