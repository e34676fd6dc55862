"""What the launcher (`accelerate launch`, `torchrun`) tells the processes that it started.

The launcher sets torchrun's variables: https://pytorch.org/docs/stable/elastic/run.html. Without a
launcher, a run is one process.
"""

import os

from grpo_envs.errors import ConfigError

_UNKNOWN = ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")
"""Features that `accelerate launch` passes on as ACCELERATE_USE_..., and that runs do not
support."""
_ALLOWED_FSDP = {
    "VERSION": ("2",),
    "OFFLOAD_PARAMS": ("false",),
    "ACTIVATION_CHECKPOINTING": ("false", "model.gradient_checkpointing=true in its place"),
}
"""Supported values of FSDP_... variables. Other FSDP_... variables have no effect."""


def index() -> int:
    """Return the number of this process among those of the run, 0 to `count() - 1`."""
    return _number("RANK", 0)


def count() -> int:
    """Return how many processes share the run."""
    return _number("WORLD_SIZE", 1)


def speaks() -> bool:
    """Return whether this process is the one on its machine that prints."""
    return _number("LOCAL_RANK", 0) == 0


def shards() -> bool:
    """Return whether `accelerate launch` enables FSDP."""
    return _variable("ACCELERATE_USE_FSDP") == "true"


def require_known() -> None:
    """Refuse options of `accelerate launch` that a run does not support.

    Raises:
        ConfigError: one line that says what to use instead.
    """
    for name in _UNKNOWN:
        if _variable(f"ACCELERATE_USE_{name}") == "true":
            raise ConfigError(
                f"{name.lower()} of accelerate launch. Allowed: --multi_gpu, or --use_fsdp "
                "--fsdp_version 2, which shards the optimiser's state as ZeRO-1 does."
            )
    for name, allowed in _ALLOWED_FSDP.items() if shards() else ():
        value = _variable(f"FSDP_{name}", allowed[0])
        if value != allowed[0]:
            raise ConfigError(f"fsdp_{name.lower()}={value}. Allowed: {', or '.join(allowed)}.")


_owned: list[int] = []
"""The argument of `own`, if it was called."""


def own(count: int) -> None:
    """Set `cores()` to `count` in this process, which is one of several on its machine."""
    _owned[:] = [count]


def cores() -> int:
    """Return this process's share of the processor cores: 1 or more."""
    if _owned:
        return _owned[0]
    usable = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0))
    return max(1, (usable or os.cpu_count() or 1) // _number("LOCAL_WORLD_SIZE", 1))


def _number(name: str, alone: int) -> int:
    """Return a variable of torchrun; `alone` without LOCAL_RANK, as others set RANK, too."""
    return int(os.environ.get(name, alone)) if "LOCAL_RANK" in os.environ else alone


def _variable(name: str, else_: str = "false") -> str:
    """Return one of Accelerate's variables in lower case, or `else_` if it is not set."""
    return os.environ.get(name, else_).lower()
