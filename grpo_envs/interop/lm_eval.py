"""lm-evaluation-harness: an environment of single answers as a task.

    task = Task("countdown", level=2)
    lm_eval.simple_evaluate(model="hf", ..., tasks=[task], apply_chat_template=True)

or, for its command, a YAML file in the folder of `--include_path`:

    task: countdown_2
    class: !function grpo_envs.interop.lm_eval.Task
    metadata: {env: countdown, keywords: {level: 2}}

Written for lm-eval 0.4.13.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Dataset
from lm_eval.api.task import ConfigurableTask

from grpo_envs.errors import ConfigError, require
from grpo_envs.interop.rows import (
    Row,
    environment_of,
    grade,
    messages_of,
    require_each_alone,
    require_single,
    rows_of,
)


class Task(ConfigurableTask):
    """The problems of a split with single answers.

    The metrics are `reward`, the whole reward, each part of it, and `invalid`, the share of answers
    whose grader failed. Such an answer has no other metric, so the means leave it out.
    """

    def __init__(
        self,
        env: str = "",
        /,
        *,
        split: str = "eval",
        rows: int = 128,
        config: Mapping[str, Any] | None = None,
        **keywords: Any,
    ) -> None:
        """Take the environment registered under `env`, made with `keywords`.

        Args:
            env: The name of the environment.
            split: `eval`, held-out problems, or `train`.
            rows: Number of problems, from seed 0 on.
            config: lm-eval's config from a YAML file; its `metadata` may have env, split, rows and
                keywords.
            **keywords: Keywords of the environment.

        Raises:
            ConfigError: there is no such environment or keyword, its problems are conversations, or
                it grades all answers of a step together.
        """
        given = dict(config or {})
        told = given.get("metadata", {})
        require(isinstance(told, Mapping), "metadata", told, "env, split, rows and keywords")
        env, split, rows = told.get("env", env), told.get("split", split), told.get("rows", rows)
        keywords = told.get("keywords", keywords)
        self.env, _ = environment_of(env, keywords)
        require_each_alone(env, self.env, "lm-eval")
        self._rows = rows_of(env, keywords, split, rows)
        require_single(env, self._rows, "which lm-eval does not support")
        given.pop("class", None)
        super().__init__(config={**_config(env, self.env.weights), **given})

    def download(self, *_: Any, **__: Any) -> None:
        """Make the data set of rows, which name problems and have no gold answers."""
        self.dataset = {"rows": Dataset.from_list([row.columns for row in self._rows])}

    def fewshot_context(
        self,
        doc: Mapping[str, Any],
        num_fewshot: int = 0,
        *,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        chat_template: Callable[[list[dict[str, Any]]], str] | None = None,
        **_: Any,
    ) -> str:
        """Return the prompt as in our own runs, by the chat template with `apply_chat_template`.

        Raises:
            ConfigError: examples or another system message are requested.
        """
        if num_fewshot or system_instruction:
            raise ConfigError("num_fewshot, system_instruction: none, the environment has its own.")
        messages = messages_of(Row.of(doc))
        if apply_chat_template and chat_template:
            return chat_template(messages)
        *before, prompt = (message["content"] for message in messages)
        return "\n\n".join([*before, f"{prompt}\n"]) if before else str(prompt)

    def process_results(self, doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        """Grade an answer."""
        (graded,) = grade([Row.of(doc)], [results[0]])
        if graded.total is None:
            return {"invalid": 1.0}
        return {**graded.parts, "reward": graded.total, "invalid": 0.0}


def _config(env: str, weights: Mapping[str, float]) -> dict[str, Any]:
    """Return the default config of lm-eval for an environment."""
    parts = {name: weight >= 0 for name, weight in weights.items()}
    better = {**parts, "reward": True, "invalid": False}
    metrics = [
        {"metric": name, "aggregation": "mean", "higher_is_better": up}
        for name, up in better.items()
    ]
    return {
        "task": f"grpo_envs_{env}",
        "test_split": "rows",
        "doc_to_text": "seed",
        "doc_to_target": "digest",
        "process_results": "process_results",
        "metric_list": metrics,
        "num_fewshot": 0,
        "generation_kwargs": {"until": [], "max_gen_toks": 1024, "do_sample": False},
    }
