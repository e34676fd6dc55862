"""Exercises by level."""

import random
from collections.abc import Callable

from grpo_env_format.exercise import Exercise
from grpo_env_format.simple import simple

LEVELS: dict[int, Callable[[random.Random], Exercise]] = {1: simple}
