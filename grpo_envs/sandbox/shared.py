"""The sandboxes that all environments of a process share."""

from functools import cache

from grpo_envs.errors import require, require_one_of
from grpo_envs.sandbox.levels import LEVELS
from grpo_envs.sandbox.pool import LocalPool
from grpo_envs.sandbox.types import Backend


@cache
def shared_pool(level: str, workers: int | None, preload: tuple[str, ...] | None = None) -> Backend:
    """Return the pool of this process for a level, made at the first call.

    Args:
        level: What confines the programs: the value of `env.sandbox`.
        workers: Most programs at once: the value of `env.workers`.
        preload: Packages that programs may import, as `LocalPool` takes them.

    Raises:
        ConfigError: no such level, or no workers.
        SandboxUnavailable: this machine has nothing of that level.
    """
    require_one_of("env.sandbox", level, LEVELS)
    whole = workers is None or (type(workers) is int and workers > 0)
    require(whole, "env.workers", workers, "a whole number above 0, or null")
    pool: Backend = LocalPool(workers=workers, level=level, preload=preload)
    assert pool.level  # what is missing on this machine is said now, not when programs come
    return pool
