"""Running untrusted programs: `LocalPool().run(program, stdin=...)`."""

from grpo_envs.errors import SandboxError, SandboxUnavailable
from grpo_envs.sandbox.pool import LocalPool
from grpo_envs.sandbox.tool import python_tool
from grpo_envs.sandbox.types import Backend, Calls, Limits, Raised, Returned, RunResult, Verdict

__all__ = [
    "Backend",
    "Calls",
    "Limits",
    "LocalPool",
    "Raised",
    "Returned",
    "RunResult",
    "SandboxError",
    "SandboxUnavailable",
    "Verdict",
    "python_tool",
]
