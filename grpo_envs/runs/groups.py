"""Groups as text, for checkpoints: groups that are sampled and not learnt from yet."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from grpo_envs.types import Completion, Group, Reward, Turn


def to_text(groups: Sequence[Group]) -> str:
    """Return groups as JSON; numbers are exact. `meta` holds JSON values only."""
    return json.dumps(groups, default=_plain)


def from_text(text: str) -> list[Group]:
    """Return the groups in a text of `to_text`."""
    return [_group(each) for each in json.loads(text)]


def _plain(value: Any) -> dict[str, Any]:
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} in a group. Allowed: values of JSON.")


def _group(found: dict[str, Any]) -> Group:
    found["prompt_ids"] = tuple(found["prompt_ids"])
    found["completions"] = tuple(_completion(each) for each in found["completions"])
    found["rewards"] = tuple(Reward(**each) for each in found["rewards"])
    found["tools"] = tuple(found.get("tools", ()))  # not in older checkpoints
    return Group(**found)


def _completion(found: dict[str, Any]) -> Completion:
    for key in ("token_ids", "logprobs", "mask", "turn_lengths", "turn_starts"):
        found[key] = tuple(found.get(key, ()))  # turn_starts: not in older checkpoints
    found["turns"] = tuple(Turn(**each) for each in found["turns"])
    return Completion(**found)
