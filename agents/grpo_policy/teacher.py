"""The teacher of a distillation: a frozen model that scores the policy's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel

from grpo_envs.config.model import ModelConfig
from grpo_envs.errors import ConfigError
from grpo_envs.runs.newest import model_in
from grpo_policy.kept import Source
from grpo_policy.models import load_config, load_policy
from grpo_policy.policy import Policy

_ALLOWED = "Allowed: a folder of Transformers, a run, or a hub id"


def load_teacher(path: str, policy: Policy) -> Policy:
    """Load a frozen model with the tokens of `policy`, in the dtype in which `policy` computes.

    Args:
        path: A folder of Transformers, a run (the newest checkpoint) or a hub id.
        policy: The policy whose tokens the teacher will score.

    Raises:
        ConfigError: the teacher cannot be loaded, or has other tokens; one line that says so.
    """
    with _named(path) as found:
        teacher = load_policy(found, dtype=policy.dtype)
    different = _difference(teacher, policy)
    if different:
        raise ConfigError(
            f"agent.teacher={path}: {different}. {_ALLOWED} of a model with the same tokens."
        )
    return teacher.requires_grad_(False).eval()


def empty_teacher(path: str) -> PreTrainedModel:
    """Return the teacher without values, on the meta device.

    Raises:
        ConfigError: there is no such model.
    """
    with _named(path) as found:
        config = load_config(found, ModelConfig())
    with torch.device("meta"):
        empty: PreTrainedModel = Source("", {}, config).auto_class.from_config(config)
    return empty


@contextmanager
def _named(path: str) -> Iterator[str]:
    """Give the model that a path means; name the key where it cannot be loaded."""
    try:
        yield str(model_in(Path(path).expanduser()))
    except ConfigError as error:
        cause = str(error).split(". Give model.path")[0].replace("model.path=", "")
        raise ConfigError(f"agent.teacher={path}: {cause.rstrip('.')}. {_ALLOWED}.") from error


def _difference(teacher: Policy, policy: Policy) -> str:
    """Return how the tokens of two models differ; '' if they are the same."""
    ours, theirs = (
        {i: token for token, i in each.tokenizer.get_vocab().items()} for each in (policy, teacher)
    )
    for i in sorted(ours.keys() | theirs.keys()):
        if ours.get(i) != theirs.get(i):
            said = (
                "it has no token" if i not in theirs else f"its token {theirs[i]!r} has the number"
            )
            also = f"{ours[i]!r} in" if i in ours else "none of"
            return f"{said} {i}, which is {also} the model that is trained"
    known = len(teacher.model.get_input_embeddings().weight)
    if known <= max(ours):
        return f"it has {known} tokens, the model that is trained {max(ours) + 1}"
    if teacher.context_length < policy.context_length:
        return (
            f"its context of {teacher.context_length} tokens is shorter than the "
            f"{policy.context_length} of the model that is trained"
        )
    return ""
