"""Prompts and their answers in a context: how much room there is, and what is sampled together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    tokens: int,
    at_once: Callable[[int], int],
) -> list[list[int]]:
    """Return which prompts are sampled together, in order of their length.

    Padding counts in a cache: where a model's masks end with its context, prompts of unequal
    length may not go together near that end.

    Args:
        policy: The model.
        prompts: As tokens.
        tokens: Tokens of an answer, at most.
        at_once: Returns how many prompts may go together, given the tokens of the longest of them
            and its answer.
    """
    order = sorted(range(len(prompts)), key=lambda p: len(prompts[p]))  # little padding
    apart = policy.masks_end and len(prompts[order[-1]]) + tokens > policy.context_length
    parts: list[list[int]] = []
    for p in order:
        length = len(prompts[p])
        alike = parts and not (apart and len(prompts[parts[-1][-1]]) != length)
        if alike and len(parts[-1]) < at_once(length + tokens):
            parts[-1].append(p)
        else:
            parts.append([p])
    return parts
