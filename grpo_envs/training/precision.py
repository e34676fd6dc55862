"""What a run computes in: float32, or half of its bytes where the device has it."""

from __future__ import annotations

import torch

from grpo_envs.config.schema import TrainerConfig
from grpo_envs.errors import ConfigError
from grpo_policy.masters import DTYPES, dtype_name
from grpo_policy.policy import Policy

_TRIAL = 4
"""Tokens that a model is tried with."""


def compute_dtype(cfg: TrainerConfig, device: torch.device) -> torch.dtype:
    """Return what `trainer.precision` means on a device.

    auto is bf16 where a GPU has it itself: one that only emulates it computes in float32. On a GPU
    float32 is multiplied as TF32.
    """
    gpu = device.type == "cuda"
    itself = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    name = cfg.precision if cfg.precision != "auto" else "bf16" if itself else "fp32"
    if gpu and name == "fp32":
        torch.set_float32_matmul_precision("high")
    return DTYPES[name]


@torch.no_grad()
def compute_in(policy: Policy, dtype: torch.dtype) -> None:
    """Let a policy compute in `dtype`.

    Raises:
        ConfigError: the model cannot; one line that names its class.
    """
    policy.compute_in(dtype)
    if policy.model.dtype == torch.float32:
        return
    ids = torch.tensor([[policy.pad_id] * _TRIAL], device=policy.device)
    try:
        logits = policy.model(input_ids=ids, use_cache=False).logits
    except Exception as error:  # of somebody's model
        cause = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise _refused(policy, cause) from error
    if not bool(logits.isfinite().all()):
        raise _refused(policy, "its logits are no finite numbers")


def _refused(policy: Policy, cause: str) -> ConfigError:
    name = dtype_name(policy.model.dtype)
    return ConfigError(
        f"trainer.precision={name}: {type(policy.model).__name__} cannot compute in it ({cause}). "
        f"Allowed: {', '.join(other for other in DTYPES if other != name)}."
    )
