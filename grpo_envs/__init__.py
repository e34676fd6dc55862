"""Text environments with scalar rewards, and the agents that learn from them.

>>> import grpo_envs
>>> env = grpo_envs.make("math")
>>> question, _ = env.reset(seed=7)
>>> _, reward, _, _, info = env.step("<answer>0</answer>")
"""

from typing import TYPE_CHECKING, Any

from grpo_envs.env import DatasetEnv, TextEnv
from grpo_envs.env.calls import write_call
from grpo_envs.env.conformance import check_env
from grpo_envs.env.dataset import Row
from grpo_envs.env.plugins import make, register_envs
from grpo_envs.env.reward_functions import batched, grouped
from grpo_envs.env.spaces import UnicodeText
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.types import Call, Completion, Group, Problem, Reply, Reward, Tool, Turn

if TYPE_CHECKING:
    from grpo_envs.env.mcp_command import mcp
    from grpo_envs.env.tool_env import ToolEnv

__version__ = "0.1.0"
__all__ = [
    "Call",
    "Completion",
    "DatasetEnv",
    "Group",
    "GroupVectorEnv",
    "Problem",
    "Reply",
    "Reward",
    "Row",
    "TextEnv",
    "Tool",
    "ToolEnv",
    "Turn",
    "UnicodeText",
    "batched",
    "check_env",
    "grouped",
    "make",
    "mcp",
    "write_call",
]


def __getattr__(name: str) -> Any:
    """Import the names that need further packages on their first use."""
    if name == "ToolEnv":
        from grpo_envs.env.tool_env import ToolEnv

        return ToolEnv
    if name == "mcp":
        from grpo_envs.env.mcp_command import mcp

        return mcp
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_envs()
