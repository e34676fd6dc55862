"""Sequence classifiers of Transformers that score a prompt with its answers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from grpo_envs.errors import ConfigError, GrpoEnvsError, nearest
from grpo_envs.runtime.hub import missing_on_hub
from grpo_envs.types import Problem, Turn
from grpo_policy.context import cap_scores, context_length_of
from grpo_policy.masters import DTYPES

_AT = "env.rewards.rm"
_HEAD = "ForSequenceClassification"
_TRIED = Problem(prompt="(a question)", gold=None, solution="")


class TooLong(GrpoEnvsError, ValueError):
    """An episode has more tokens than the classifier can attend to."""


@dataclass(slots=True)
class Classifier:
    """A sequence-classification model and its tokenizer."""

    path: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    _lock: Lock = field(default_factory=Lock)

    def __str__(self) -> str:
        """Return the path, size, dtype and device."""
        size = sum(weight.numel() for weight in self.model.parameters())
        kind = str(self.model.dtype).removeprefix("torch.")
        return f"{self.path}, {size / 1e6:,.1f} M parameters in {kind} on {self.model.device}"

    def label(self, said: str | int | None) -> int:
        """Return the number of a label, given its name or number, or None for the only label.

        Raises:
            ConfigError: there are several labels and none is given, or there is no such label.
        """
        names = {int(i): str(name) for i, name in (self.model.config.id2label or {}).items()}
        shown = ", ".join(names[i] for i in sorted(names))
        if said is None:
            if len(names) == 1:
                return 0
            raise ConfigError(
                f"{_AT}.model={self.path} has {len(names)} labels. Choose one: {_AT}.label=... "
                f"of {shown}."
            )
        for number, name in names.items():
            if said in (number, name, str(number)):
                return number
        close = nearest(str(said), names.values())
        raise ConfigError(f"{_AT}.label={said}. Allowed: {shown}.{close}")

    def scores(
        self,
        problems: Sequence[Problem],
        episodes: Sequence[Sequence[Turn]],
        label: int,
        batch: int,
    ) -> list[float | Exception]:
        """Return the score of each episode: a logit if there is one label, else a probability.

        Args:
            problems: The problem of each episode.
            episodes: The turns of each episode.
            label: The label whose probability is returned, if there are several.
            batch: Rows of a forward pass, which have similar lengths.
        """
        with self._lock:  # a tokenizer is not for several threads at once either
            rows = [self.encoded(*each) for each in zip(problems, episodes, strict=True)]
        limit = context_length_of(self.model.config)
        lengths = [len(row["input_ids"]) for row in rows]
        found: list[float | Exception] = [
            TooLong(f"{n} tokens, and the reward model attends to {limit}") for n in lengths
        ]
        fitting = sorted(
            (i for i, n in enumerate(lengths) if 0 < n <= limit), key=lengths.__getitem__
        )
        if self.model.config.pad_token_id is None:
            batch = 1  # the head of such a model finds the last token of one row only
        with self._lock:
            for start in range(0, len(fitting), batch):
                places = fitting[start : start + batch]
                logits_BL = self._logits([rows[i] for i in places])
                for i, value in zip(places, self._of(logits_BL, label), strict=True):
                    found[i] = value
        return found

    def encoded(self, problem: Problem, turns: Sequence[Turn]) -> dict[str, list[int]]:
        """Return the tokens of a prompt and its answers, by the tokenizer's chat template.

        Without a template the tokenizer gets two texts: the prompt, and all answers.
        """
        if self.tokenizer.chat_template is None:
            answers = "\n\n".join(turn.action for turn in turns)
            return dict(self.tokenizer(_whole(problem.prompt), _whole(answers)))
        text = self.tokenizer.apply_chat_template(_messages(problem, turns), tokenize=False)
        return dict(self.tokenizer(_whole(str(text)), add_special_tokens=False))

    @torch.inference_mode()
    def _logits(self, rows: Sequence[dict[str, list[int]]]) -> Tensor:
        """Return the logits (B, L) in float32 on the CPU; shorter rows are padded on the right."""
        pad = self.model.config.pad_token_id
        longest = max(len(row["input_ids"]) for row in rows)
        given = {}
        for name, fill in (("input_ids", pad or 0), ("attention_mask", 0), ("token_type_ids", 0)):
            if name in rows[0]:
                padded = [row[name] + [fill] * (longest - len(row[name])) for row in rows]
                given[name] = torch.tensor(padded, device=self.model.device)
        logits_BL: Tensor = self.model(**given).logits
        return logits_BL.float().cpu()

    def _of(self, logits_BL: Tensor, label: int) -> list[float]:
        if logits_BL.shape[1] == 1:
            values_B = logits_BL[:, 0]
        elif self.model.config.problem_type == "multi_label_classification":
            values_B = logits_BL[:, label].sigmoid()
        else:
            values_B = logits_BL.softmax(dim=1)[:, label]
        return [float(value) for value in values_B]


@lru_cache(maxsize=8)
def classifier(path: str, revision: str | None, device: str, dtype: str) -> Classifier:
    """Load a classifier, once in a process.

    Args:
        path: A folder or a hub id.
        revision: The revision of a hub id.
        device: A device name of torch, or auto: the process's GPU if there is one.
        dtype: fp32, bf16, fp16, or auto: bf16 on a GPU, fp32 on a CPU.

    Raises:
        ConfigError: one line that says why the classifier cannot be loaded.
    """
    place = _device(device)
    kind = classifier_dtype(dtype, place.type)
    source, where, absent = _source(path, revision)
    disable_progress_bar()
    with _in_one_line(path, absent), torch.random.fork_rng(devices=[]):
        _require_head(path, AutoConfig.from_pretrained(source, **where))
        model, info = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=kind, output_loading_info=True, **where
        )
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(f"{_AT}.model={path} lacks weights ({', '.join(missing[:3])}).")
    cap_scores(model)
    found = Classifier(path, model.eval().requires_grad_(False).to(place), tokenizer)
    with _in_one_line(path, "", "its chat template fails: "):
        found.encoded(_TRIED, [Turn(action="(an answer)")])
    return found


def classifier_dtype(name: str, device: str) -> torch.dtype:
    """Return the dtype of the weights: auto is bf16 on a GPU, fp32 on a CPU."""
    return DTYPES[name if name != "auto" else "fp32" if device == "cpu" else "bf16"]


def empty_classifier(path: str, revision: str | None) -> PreTrainedModel:
    """Return a classifier without values, on the meta device.

    Raises:
        ConfigError: there is none; one line that says why.
    """
    source, where, absent = _source(path, revision)
    with _in_one_line(path, absent), torch.device("meta"):
        config = AutoConfig.from_pretrained(source, **where)
        _require_head(path, config)
        empty: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return empty


def _source(path: str, revision: str | None) -> tuple[str, dict[str, Any], str]:
    """Return where a model is, as `from_pretrained` takes it, and why the hub has it not."""
    folder = Path(path).expanduser()
    absent = "" if folder.is_dir() else missing_on_hub(path, "model", revision)
    where = {"revision": revision or "main", "local_files_only": bool(absent)}
    return str(folder) if folder.is_dir() else path, where, absent


def _messages(problem: Problem, turns: Sequence[Turn]) -> list[dict[str, str]]:
    first = problem.messages or ({"role": "user", "content": problem.prompt},)
    system = [{"role": "system", "content": problem.system_prompt}] if problem.system_prompt else []
    said = [
        message
        for turn in turns
        for message in (
            {"role": "assistant", "content": turn.action},
            {"role": "user", "content": turn.observation},
        )
    ]
    return [*system, *map(dict, first), *said[:-1]]


def _whole(text: str) -> str:
    """Return a text that tokenizers accept: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _device(name: str) -> torch.device:
    """Return the device.

    Raises:
        ConfigError: this machine has no device of that name.
    """
    gpus = torch.cuda.device_count()
    if name == "auto":
        own = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", own) if own < gpus else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    here = device is not None and (
        device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < gpus)
    )
    if device is None or not here:
        cards = "".join(f", cuda:{i}" for i in range(gpus))
        raise ConfigError(f"{_AT}.device={name}. Allowed here: auto, cpu{cards}.")
    return device


def _require_head(path: str, config: Any) -> None:
    kinds = config.architectures or []
    if not any(kind.endswith(_HEAD) for kind in kinds):
        raise ConfigError(
            f"{_AT}.model={path} has no sequence-classification head: it is "
            f"{', '.join(kinds) or config.model_type}. Allowed: a model of a class ...{_HEAD}."
        )


@contextmanager
def _in_one_line(path: str, absent: str, what: str = "") -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # any model or template can raise anything
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{_AT}.model={path}: {what}{absent or line}") from error
