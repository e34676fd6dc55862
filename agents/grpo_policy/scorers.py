"""Memory of the models that only score: a teacher and reward models. No weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from grpo_policy.classifier import classifier_dtype, empty_classifier
from grpo_policy.footprint import PHASES, Part
from grpo_policy.teacher import empty_teacher


def teacher_part(path: str, dtype: torch.dtype, shards: int = 1) -> Part:
    """Return the memory of a teacher's weights per process.

    Args:
        path: `agent.teacher`.
        dtype: The dtype that the policy computes in; the teacher's weights have it, too.
        shards: The number of processes among which the weights are divided.

    Raises:
        ConfigError: there is no such model.
    """
    count = sum(p.numel() for p in empty_teacher(path).parameters())
    shared = f", shared by {shards} processes" if shards > 1 else ""
    text = f"{dtype.itemsize} bytes of each of {count / 1e6:,.1f} M{shared}"
    return Part(name="teacher", size=dtype.itemsize * count / shards, how=text)


def reward_model_parts(env: Mapping[str, Any], device: str) -> Iterator[Part]:
    """Yield the memory of each reward model's weights, which all environments of a process share.

    A reward model on another device than the policy is listed, but its memory is not counted.

    Args:
        env: The keys of the environment, with those of a mixture's members.
        device: The type of the policy's device: cuda or cpu.

    Raises:
        ConfigError: there is no such model, or it has no sequence-classification head.
    """
    seen = set()
    for said in _reward_models(env):
        source = tuple(said.get(key, "") for key in ("model", "revision", "device", "dtype"))
        if source in seen:
            continue
        seen.add(source)
        place = str(said.get("device", "auto"))
        place = device if place == "auto" else place
        dtype = classifier_dtype(str(said.get("dtype", "auto")), place.partition(":")[0])
        model = empty_classifier(str(said["model"]), said.get("revision"))
        count = sum(p.numel() for p in model.parameters())
        here = place in (device, f"{device}:0")
        size = dtype.itemsize * count
        where = "" if here else f": {size / 2**30:,.1f} GiB on {place}, not counted here"
        yield Part(
            name="reward model",
            size=size,
            how=f"{dtype.itemsize} bytes of each of {count / 1e6:,.1f} M{where}",
            phases=PHASES if here else (),
        )


def _reward_models(keys: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the options of each reward function `rm`, at any depth of the keys."""
    for name, value in keys.items():
        if not isinstance(value, Mapping):
            continue
        said = value.get("rm") if name == "rewards" else None
        if isinstance(said, Mapping) and said.get("model"):
            yield said
        yield from _reward_models(value)
