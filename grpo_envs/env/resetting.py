"""The arguments of a vector environment's `reset`: the groups to reset, and their seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grpo_envs.errors import ConfigError


def marked(options: Mapping[str, Any] | None, members: int, size: int) -> list[int]:
    """Return the numbers of the groups that `options["reset_mask"]` marks; all without a mask.

    Args:
        options: The options of `reset`; the mask is a bool array (members,).
        members: The number of members of all groups.
        size: The number of members of a group.

    Raises:
        ConfigError: the mask has another shape, or marks only some members of a group.
    """
    everyone = np.ones(members, dtype=np.bool_)
    mask = np.asarray((options or {}).get("reset_mask", everyone), dtype=np.bool_)
    if mask.shape != (members,):
        raise ConfigError(f"reset_mask: shape {mask.shape}. Allowed: ({members},).")
    by_group = mask.reshape(-1, size)
    if (by_group.any(axis=1) != by_group.all(axis=1)).any():
        raise ConfigError("reset_mask: it marks a part of a group. Allowed: whole groups.")
    return [int(group) for group in np.flatnonzero(by_group.any(axis=1))]


def of_groups(seeds: Sequence[int | None], groups: int, members: int) -> list[int | None]:
    """Return one seed for each group, from one seed for each group or for each member.

    Args:
        seeds: The seeds of `reset`.
        groups: The number of groups.
        members: The number of members of all groups.

    Raises:
        ConfigError: the number of seeds is another, or members of one group have different seeds.
    """
    given, size = list(seeds), members // groups
    if len(given) == members != groups:
        first, *others = (given[i::size] for i in range(size))
        if any(other != first for other in others):
            raise ConfigError("seed: members of one group have different seeds.")
        given = first
    if len(given) != groups:
        raise ConfigError(f"seed: {len(seeds)} seeds. Allowed: {groups}, one for each group.")
    return given
