"""The sandbox pools that all environments of a process share."""

from functools import cache

from grpo_envs.errors import require, require_one_of
from grpo_envs.sandbox.levels import LEVELS
from grpo_envs.sandbox.pool import LocalPool
from grpo_envs.sandbox.types import Backend


@cache
def shared_pool(level: str, workers: int | None, preload: tuple[str, ...] | None = None) -> Backend:
    """Return the pool of this process for a level, made at the first call.

    Args:
        level: The isolation level: the value of `env.sandbox`.
        workers: Largest number of concurrent programs: the value of `env.workers`.
        preload: Packages that programs may import, as in `LocalPool`.

    Raises:
        ConfigError: the level is unknown, or `workers` is not positive.
        SandboxUnavailable: the level does not work on this machine.
    """
    require_one_of("env.sandbox", level, LEVELS)
    whole = workers is None or (type(workers) is int and workers > 0)
    require(whole, "env.workers", workers, "a whole number above 0, or null")
    pool: Backend = LocalPool(workers=workers, level=level, preload=preload)
    assert pool.level  # raises now if the level does not work
    return pool
