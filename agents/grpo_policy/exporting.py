"""Export of a policy: merge its adapters, write it, and compare its logits after reading it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from grpo_envs.config.model import ModelConfig
from grpo_envs.errors import ConfigError
from grpo_policy.context import cap_scores
from grpo_policy.kept import Source
from grpo_policy.masters import DTYPES
from grpo_policy.models import load_policy
from grpo_policy.policy import Policy
from grpo_policy.saving import base_of

_SAME = 0.02
"""The largest allowed difference of logits, relative to their standard deviation."""


def merge(policy: Policy, adapters: Path) -> Policy:
    """Merge adapters into the weights of a policy; return the policy.

    Args:
        policy: The base model of the adapters, in float32; changed in place.
        adapters: The folder of the adapters and their tokenizer.

    Raises:
        ConfigError: the logits of the merged model differ from those of the trained model.
    """
    import peft  # the extra `peft`; loaded only here

    policy.tokenizer = AutoTokenizer.from_pretrained(adapters)
    ids = _probe(policy)
    with warnings.catch_warnings():  # about tied weights, compared below, and about old names
        warnings.simplefilter("ignore")
        adapted = peft.PeftModel.from_pretrained(policy.model, str(adapters)).eval()
        before = _logits(adapted, ids)
        policy.model = adapted.merge_and_unload()
    _require_same(before, _logits(policy.model, ids), f"{adapters}: adapters on tied weights")
    return policy


def merged_policy(base: str, adapters: Path, cfg: ModelConfig) -> Policy:
    """Load a model in float32 and merge adapters into its weights, for further training.

    The model has no name, because no folder holds it yet: new adapters cannot refer to one.

    Raises:
        ConfigError: the model cannot be loaded, or merging changed its logits.
    """
    policy = load_policy(base, cfg)
    trained = policy.trained_parameters()  # PEFT freezes them
    merge(policy, adapters)
    for parameter in trained:
        parameter.requires_grad_(True)
    policy.model.name_or_path = ""
    return policy


def export(policy: Policy, folder: Path, dtype: str, *, own_code: bool = False) -> None:
    """Write a policy and read it back: its logits must be the same.

    Args:
        policy: If it has adapters, only these are written.
        folder: The folder to write to.
        dtype: The dtype of the written weights.
        own_code: Whether the model's own Python code may run.

    Raises:
        ConfigError: the model that is read from the folder has other logits.
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
    cap_scores(there)
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
