"""A policy for other programs: adapters merged, and read back to see that it is the same model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from grpo_envs.config.model import ModelConfig
from grpo_envs.errors import ConfigError
from grpo_policy.kept import Source
from grpo_policy.masters import DTYPES
from grpo_policy.models import load_policy
from grpo_policy.policy import Policy
from grpo_policy.saving import base_of

_SAME = 0.02
"""Of the spread of logits: by how much those of a written model may be off."""


def merge(policy: Policy, adapters: Path) -> Policy:
    """Add adapters into the weights of a policy; return it.

    Args:
        policy: The model that the adapters are of, in float32; changed in place.
        adapters: A folder of them, and of their tokenizer.

    Raises:
        ConfigError: the merged model would not be the trained one.
    """
    import peft  # the extra `peft`; loaded only here

    policy.tokenizer = AutoTokenizer.from_pretrained(adapters)
    ids = _probe(policy)
    with warnings.catch_warnings():  # of what is compared below, and of old names
        warnings.simplefilter("ignore")
        adapted = peft.PeftModel.from_pretrained(policy.model, str(adapters)).eval()
        before = _logits(adapted, ids)
        policy.model = adapted.merge_and_unload()
    _require_same(before, _logits(policy.model, ids), f"{adapters}: adapters on tied weights")
    return policy


def merged_policy(base: str, adapters: Path, cfg: ModelConfig) -> Policy:
    """Load a model in float32 with adapters added into its weights: one to train from.

    It has no name: adapters that it gets are of a model which no folder holds yet.

    Raises:
        ConfigError: the model cannot be loaded, or would not be the trained one.
    """
    policy = load_policy(base, cfg)
    trained = policy.trained_parameters()  # PEFT freezes them
    merge(policy, adapters)
    for parameter in trained:
        parameter.requires_grad_(True)
    policy.model.name_or_path = ""
    return policy


def export(policy: Policy, folder: Path, dtype: str, *, own_code: bool = False) -> None:
    """Write a policy, and read it back: it must be the model that was written.

    Args:
        policy: With adapters, these alone are written.
        folder: Where to.
        dtype: Of the weights in it.
        own_code: Whether the model's own Python code may run.

    Raises:
        ConfigError: what a program reads from the folder is another model.
    """
    policy.save(folder, dtype)
    ids = _probe(policy)
    if policy.has_adapters:
        here, read = _logits(policy.model, ids), torch.float32
    else:
        with policy.weights_in(DTYPES[dtype]):
            here, read = _logits(policy.model, ids), DTYPES[dtype]
    source = Source.of(base_of(folder) or str(folder), {"trust_remote_code": own_code})
    there = source.auto_class.from_pretrained(folder, dtype=read, **source.where).eval()
    _require_same(here, _logits(there, ids), f"{type(there).__name__} in {folder}")


def _probe(policy: Policy) -> Tensor:
    ids = policy.tokenizer("What is 12+34? The answer is 46.")["input_ids"]
    return torch.tensor([ids], device=policy.device)


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids.to(model.device)).logits
    return logits.float().cpu()


def _require_same(wanted: Tensor, found: Tensor, what: str) -> None:
    off = float((found - wanted).abs().max() / wanted.std())
    if not off <= _SAME:
        raise ConfigError(
            f"{what}: not the trained model (its logits are off by {off:.0%} of their spread). "
            "Nothing was exported."
        )
