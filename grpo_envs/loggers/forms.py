"""The formats of names and tables that trackers accept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from grpo_envs.types import Group

COLUMNS = ("step", "problem", "prompt", "text", "reward", "advantage")


def sample_rows(
    step: int, groups: Sequence[Group], advantages: Sequence[Sequence[float]]
) -> Iterator[dict[str, Any]]:
    """Yield a row of each completion of a step, by `COLUMNS`."""
    for group, of_group in zip(groups, advantages, strict=True):
        members = zip(group.completions, group.rewards, of_group, strict=True)
        for completion, reward, advantage in members:
            texts = map(_utf8, (group.prompt, completion.text))
            values = (step, group.key, *texts, reward.total, advantage)
            yield dict(zip(COLUMNS, values, strict=True))


def _utf8(text: str) -> str:
    """Return a text without lone surrogates, which databases and JSON parsers refuse."""
    return text.encode(errors="backslashreplace").decode()


def mlflow_name(name: str) -> str:
    """Return a name that MLflow accepts.

    >>> mlflow_name("eval/pass@4"), mlflow_name("eval/accuracy/math")
    ('eval/pass_at_4', 'eval/accuracy.math')
    """
    area, slash, rest = name.replace("@", "_at_").partition("/")
    return re.sub(r"[^\w.\- /]", "_", area + slash + rest.replace("/", "."))
