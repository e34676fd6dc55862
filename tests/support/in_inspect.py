"""A task of inspect-ai, run with its mock model, which says given answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import inspect_ai
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.tool import ToolCall

from grpo_envs.env.calls import read_calls
from grpo_envs.types import Call


def _call(call: Call, number: int) -> ToolCall:
    error = call.error or None
    return ToolCall(str(number), call.name or "?", dict(call.arguments), parse_error=error)


def run(task: Any, episodes: Sequence[Sequence[str]], folder: Path, **options: Any) -> Any:
    """Return the log of a run, a sample after the other; `episodes[i]` are answers to sample i.

    A tool call in an answer is made as one.
    """

    def said() -> Iterator[ModelOutput]:
        for answer in (answer for answers in episodes for answer in answers):
            beside, calls = read_calls(answer)
            output = ModelOutput.from_content("mockllm", beside if calls else answer)
            output.message.tool_calls = [*map(_call, calls, range(len(calls)))] or None
            output.usage = ModelUsage()  # else it loads a tokenizer from the web to count tokens
            yield output

    (log,) = inspect_ai.eval(
        task,
        model=get_model("mockllm/model", custom_outputs=list(said()), memoize=False),
        max_samples=1,
        display="none",
        log_dir=str(folder),
        **options,
    )
    if log.samples:
        log.samples.sort(key=lambda sample: sample.metadata["seed"])
    return log
