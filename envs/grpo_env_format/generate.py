"""Exercises by level."""

import random
from collections.abc import Callable
from functools import partial

from grpo_env_format.composed import composed
from grpo_env_format.exercise import Exercise
from grpo_env_format.simple import simple

LEVELS: dict[int, Callable[[random.Random], Exercise]] = {
    1: simple,
    **{level: partial(composed, level=level) for level in (2, 3, 4, 5)},
}
