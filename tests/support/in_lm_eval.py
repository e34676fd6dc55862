"""A task of lm-evaluation-harness, run with a model that says given answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lm_eval
from lm_eval import evaluator
from lm_eval.models.dummy import DummyLM
from lm_eval.tasks import TaskManager


class Scripted(DummyLM):
    """Gives document i the answer i."""

    tokenizer_name = ""

    def __init__(self, answers: Sequence[str], template: Callable[..., str] | None) -> None:
        super().__init__()
        self._answers = answers
        self._template = template

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        return [self._answers[request.doc_id] for request in requests]

    def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
        assert self._template
        return self._template(chat_history)

    def chat_template(self, *_: Any) -> str:
        return ""


def run(
    task: Any, answers: Sequence[str], *, template: Callable[..., str] | None = None, **options: Any
) -> Any:
    """Return what `simple_evaluate` finds of a task whose documents get these answers."""
    evaluator.add_env_info = lambda _: None  # a description of the machine, which takes seconds
    return lm_eval.simple_evaluate(
        model=Scripted(answers, template),
        tasks=[task],
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),  # its own tasks are thousands of files
        apply_chat_template=template is not None,
        **options,
    )
