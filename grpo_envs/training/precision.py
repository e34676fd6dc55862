"""The type that a run computes in: float32, or a 16-bit type if the device supports it."""

from __future__ import annotations

import torch

from grpo_envs.config.schema import TrainerConfig
from grpo_envs.errors import ConfigError
from grpo_policy.masters import DTYPES, dtype_name
from grpo_policy.policy import Policy
from grpo_policy.products import set_float32_products

_TRIAL = 4
"""Tokens of the trial run of a model."""


def compute_dtype(cfg: TrainerConfig, device: torch.device) -> torch.dtype:
    """Return the type of `trainer.precision` on a device.

    On a GPU, float32 matrices are multiplied as TF32.
    """
    name = precision_name(cfg, device.type)
    if device.type == "cuda" and name == "fp32":
        set_float32_products("high")
    return DTYPES[name]


def precision_name(cfg: TrainerConfig, device: str) -> str:
    """Return the name of the type of `trainer.precision` on a type of device.

    auto is bf16 if the GPU supports it natively; a GPU that only emulates bf16 computes in float32.
    If this machine has no GPU, bf16 is assumed to be supported.
    """
    if cfg.precision != "auto":
        return str(cfg.precision)
    here = torch.cuda.is_available()
    able = not here or torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if device == "cuda" and able else "fp32"


@torch.no_grad()
def compute_in(policy: Policy, dtype: torch.dtype) -> None:
    """Set the type that a policy computes in.

    Raises:
        ConfigError: the model cannot compute in it; one line that names its class.
    """
    policy.compute_in(dtype)
    if policy.model.dtype == torch.float32:
        return
    ids = torch.tensor([[policy.pad_id] * _TRIAL], device=policy.device)
    try:
        logits = policy.model(input_ids=ids, use_cache=False).logits
    except Exception as error:  # a package's model may raise anything
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
