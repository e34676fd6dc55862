"""The sandbox that all code environments of a process share."""

from functools import cache

from grpo_envs.errors import require, require_one_of
from grpo_envs.sandbox import Backend, LocalPool
from grpo_envs.sandbox.levels import LEVELS


@cache
def shared_pool(level: str, workers: int | None) -> Backend:
    """Return the pool of this process for a level, made at the first call.

    Raises:
        ConfigError: no such level, or no workers.
        SandboxUnavailable: this machine has nothing of that level.
    """
    require_one_of("env.sandbox", level, LEVELS)
    whole = workers is None or (type(workers) is int and workers > 0)
    require(whole, "env.workers", workers, "a whole number above 0, or null")
    pool: Backend = LocalPool(workers=workers, level=level)
    assert pool.level  # what is missing on this machine is said now, not when programs come
    return pool
