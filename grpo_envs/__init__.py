"""Text environments with scalar rewards, and the agents that learn from them.

>>> import grpo_envs
>>> env = grpo_envs.make("math")
>>> question, _ = env.reset(seed=7)
>>> _, reward, _, _, info = env.step("<answer>0</answer>")
"""

from grpo_envs.env import DatasetEnv, TextEnv
from grpo_envs.env.conformance import check_env
from grpo_envs.env.dataset import Row
from grpo_envs.env.plugins import make, register_envs
from grpo_envs.env.reward_functions import batched
from grpo_envs.env.spaces import UnicodeText
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.types import Completion, Group, Problem, Reply, Reward, Turn

__version__ = "0.1.0"
__all__ = [
    "Completion",
    "DatasetEnv",
    "Group",
    "GroupVectorEnv",
    "Problem",
    "Reply",
    "Reward",
    "Row",
    "TextEnv",
    "Turn",
    "UnicodeText",
    "batched",
    "check_env",
    "make",
]

register_envs()
