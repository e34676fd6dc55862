"""Prompts and their answers in a context: how much room there is, and what is sampled together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from grpo_envs.errors import ConfigError
from grpo_policy.policy import Policy


def room_behind(prompt: tuple[int, ...], policy: Policy) -> int:
    """Return how many tokens the model's context has room for behind a prompt.

    Raises:
        ConfigError: none.
    """
    room = policy.context_length - len(prompt)
    if room < 1:
        raise ConfigError(
            f"a prompt has {len(prompt):,} tokens and leaves no room for an answer in the model's "
            f"context of {policy.context_length:,}."
        )
    return room


def together(
    policy: Policy, prompts: Sequence[tuple[int, ...]], size: int, tokens: int
) -> list[list[int]]:
    """Return which prompts are sampled together: `size` at most, in order of their length.

    Padding counts in a cache: where a model's masks end with its context, prompts of unequal
    length may not go together near that end.

    Args:
        policy: The model.
        prompts: As tokens.
        size: Prompts of a part, at most.
        tokens: Tokens of an answer, at most.
    """
    order = sorted(range(len(prompts)), key=lambda p: len(prompts[p]))  # little padding
    runs = [order]
    if policy.masks_end and len(prompts[order[-1]]) + tokens > policy.context_length:
        runs = [list(run) for _, run in groupby(order, key=lambda p: len(prompts[p]))]
    return [run[start : start + size] for run in runs for start in range(0, len(run), size)]
