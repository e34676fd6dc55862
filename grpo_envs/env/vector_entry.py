"""Gymnasium's `vector_entry_point` of each environment: `grpo_envs.env.vector_entry:<name>`.

The entry point is a string, so that specs stay JSON; the name selects the environment.
"""

from collections.abc import Callable
from functools import partial

from grpo_envs.env.installed import ENVS, available
from grpo_envs.env.plugins import make_groups
from grpo_envs.env.vector import GroupVectorEnv


def __getattr__(name: str) -> Callable[..., GroupVectorEnv]:
    if name not in available(ENVS):
        raise AttributeError(name)
    return partial(make_groups, name)
