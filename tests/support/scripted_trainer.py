"""What a rollout function asks of TRL's trainer, with given answers in place of a model's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

from grpo_policy.models import TINY


@cache
def tokenizer() -> Any:
    """The bundled model's."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY)


class ScriptedTrainer:
    """Says `scripts[i]` in conversation i, an answer at a time, each with its end token."""

    def __init__(
        self, scripts: Sequence[Sequence[str]], *, most: int = 10_000, processes: int = 1
    ) -> None:
        self.processing_class = tokenizer()
        self.eos_token_ids = [self.processing_class.eos_token_id]
        self.chat_template_kwargs: dict[str, Any] = {}
        self.max_completion_length = most
        self.accelerator = SimpleNamespace(num_processes=processes)
        self.contexts: list[list[list[int]]] = []
        self._left = [list(script) for script in scripts]
        self._active: list[int] = list(range(len(scripts)))

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: None, fields: dict[str, Any], generations: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        assert (images, fields, generations) == (None, {}, 1)
        self.contexts.append(prompt_ids)
        if len(self.contexts) > 1:
            self._active = [i for i in self._active if self._left[i]]
        assert len(prompt_ids) == len(self._active), "a conversation goes on after its last answer"
        ids = [self._encoded(self._left[i].pop(0)) for i in self._active]
        return ids, [[-0.5] * len(row) for row in ids]

    def _encoded(self, text: str) -> list[int]:
        ids = self.processing_class(text, add_special_tokens=False)["input_ids"]
        assert self.processing_class.decode(ids) == text, "the vocabulary cannot say this"
        return [*ids, *self.eos_token_ids]
