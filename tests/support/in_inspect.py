"""A task of inspect-ai, run with its mock model, which says given answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import inspect_ai
from inspect_ai.model import ModelOutput, ModelUsage, get_model


def run(task: Any, episodes: Sequence[Sequence[str]], folder: Path, **options: Any) -> Any:
    """Return the log of a run; `episodes[i]` are the answers to sample i, in turn."""
    asked = {
        sample.input[-1].text: said for sample, said in zip(task.dataset, episodes, strict=True)
    }

    def say(messages: Sequence[Any], *_: Any) -> ModelOutput:
        turns = sum(message.role == "assistant" for message in messages)
        first = next(message.text for message in messages if message.role == "user")
        output = ModelOutput.from_content("mockllm", asked[first][turns])
        output.usage = ModelUsage()  # else it loads a tokenizer from the web to count tokens
        return output

    (log,) = inspect_ai.eval(
        task,
        model=get_model("mockllm/model", custom_outputs=say, memoize=False),
        display="none",
        log_dir=str(folder),
        **options,
    )
    if log.samples:
        log.samples.sort(key=lambda sample: sample.metadata["seed"])
    return log
