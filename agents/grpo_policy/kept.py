"""Contents of a model's folder that are not trained, but must not be lost when the model is saved.

Of a multimodal folder only the text model is trained. A save also writes the vision tower, the
processor's files and the configuration of the whole model, and weights that Transformers does not
load, such as those for multi-token prediction (`mtp`).
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils.hub import cached_file

from grpo_envs.errors import ConfigError
from grpo_policy.head import decoder_of

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
)
"""Files of a multimodal model's processor, beside the tokenizer's."""


@dataclass(frozen=True, slots=True)
class Source:
    """A folder or a hub id, and the arguments with which `from_pretrained` reads it."""

    place: str
    where: Mapping[str, Any]
    config: Any
    """The configuration of the model there."""

    @classmethod
    def of(cls, place: str, where: Mapping[str, Any]) -> Self:
        """Read the configuration."""
        return cls(place, where, AutoConfig.from_pretrained(place, **where))

    @property
    def multimodal(self) -> bool:
        """Whether the text model is only a part of the model."""
        return self.config.get_text_config() is not self.config

    @property
    def auto_class(self) -> Any:
        """The class that loads the text model alone, or the whole model if that is not possible."""
        alone = type(self.config) in MODEL_FOR_CAUSAL_LM_MAPPING or not self.multimodal
        return AutoModelForCausalLM if alone else AutoModelForImageTextToText

    def file(self, name: str) -> Path | None:
        """Return the path of a file, or None if there is no such file."""
        known = {
            key: self.where[key] for key in ("local_files_only", "revision") if key in self.where
        }
        found = cached_file(self.place, name, _raise_exceptions_for_missing_entries=False, **known)
        return Path(found) if found else None

    def weights(self) -> dict[str, Path]:
        """Return the file of each weight by its name there; {} without safetensors files."""
        if single := self.file(_WEIGHTS):
            with safe_open(single, "pt") as opened:
                return dict.fromkeys(opened.keys(), single)
        index = self.file(_INDEX)
        if index is None:
            return {}
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        places = {name: self.file(name) for name in set(files.values())}
        return {weight: place for weight, name in files.items() if (place := places[name])}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a save adds to the files of the trained model."""

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights by their names in the folder, unchanged."""
    frozen: Set[str] = frozenset()
    """Names of the model's parameters that are not trained; `weights` has their values."""
    config: Mapping[str, Any] | None = None
    """The configuration of the whole model, if the trained model is a part of it."""
    files: Mapping[str, bytes] = field(default_factory=dict)

    def add_to(self, folder: Path) -> None:
        """Write all this to the folder of a saved model."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        if self.config is not None:
            file = folder / "config.json"
            dtype = json.loads(file.read_text(encoding="utf-8"))["dtype"]
            whole = {**self.config, "dtype": dtype}
            whole["text_config"] = {**whole["text_config"], "dtype": dtype}
            file.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        if self.weights:
            self._add_weights(folder)

    def _add_weights(self, folder: Path) -> None:
        """Add another file of weights, and write the index of all files."""
        shards = sorted(folder.glob("model*.safetensors"))
        total = len(shards) + 1
        names = [f"model-{number:05}-of-{total:05}.safetensors" for number in range(1, total + 1)]
        for shard, name in zip(reversed(shards), reversed(names[:-1]), strict=True):
            shard.rename(folder / name)
        save_file(dict(self.weights), folder / names[-1], metadata={"format": "pt"})
        size = 0
        files: dict[str, str] = {}
        for name in names:
            with safe_open(folder / name, "pt") as opened:
                files |= dict.fromkeys(opened.keys(), name)
            size += (folder / name).stat().st_size
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(files.items()))}
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def keep(model: PreTrainedModel, source: Source, path: str, *, whole: bool = True) -> None:
    """Let `model.save_pretrained` write the folder's other contents; train the text model only.

    Args:
        model: Loaded from `source`.
        source: The folder.
        path: The path of the folder, for messages.
        whole: Whether the model itself will be saved, and not only its adapters.

    Raises:
        ConfigError: a save would lose weights; one line that names one of them.
    """
    if source.multimodal:
        freeze_beside_text(model)
    if not whole:
        return
    kept = _kept(model, source, f"model.path={path}: {type(model).__name__}")
    if kept == Kept():
        return
    own = model.save_pretrained

    def save_pretrained(folder: str | Path, *, state_dict: Any = None, **kwargs: Any) -> None:
        if getattr(model, "_hf_peft_config_loaded", False):  # adapters refer to the whole model
            own(folder, state_dict=state_dict, **kwargs)
            return
        state = model.state_dict() if state_dict is None else state_dict
        trained = {key: value for key, value in state.items() if key not in kept.frozen}
        own(folder, state_dict=trained, **kwargs)
        kept.add_to(Path(folder))

    model.save_pretrained = save_pretrained  # type: ignore[method-assign, assignment]


def beside_text(model: PreTrainedModel) -> Iterator[nn.Parameter]:
    """Yield the weights that text does not pass through."""
    parts = (decoder_of(model), model.get_input_embeddings(), model.get_output_embeddings())
    text = {id(parameter) for part in parts for parameter in part.parameters()}
    return (parameter for parameter in model.parameters() if id(parameter) not in text)


def freeze_beside_text(model: PreTrainedModel) -> None:
    """Freeze the weights that text does not pass through."""
    for parameter in beside_text(model):
        parameter.requires_grad = False


def _kept(model: PreTrainedModel, source: Source, name: str) -> Kept:
    there = source.weights()
    state = {key: value.to("meta") for key, value in model.state_dict().items()}
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    strange = sorted(_names(model, state, without=tied) - there.keys())
    if strange and source.multimodal:
        raise ConfigError(
            f"{name} would be saved under other names than its folder has ({strange[0]}), so the "
            f"rest of the folder ({source.config.model_type}) would be lost. Give the folder of a "
            "text model, or of another model."
        )
    if strange:  # an older layout: the folder holds only the model
        return Kept()
    frozen = {key for key, weight in model.named_parameters() if not weight.requires_grad}
    weights = {}
    for key in sorted(there.keys() - _names(model, state, without=frozen)):
        with safe_open(there[key], "pt") as opened:
            weights[key] = opened.get_tensor(key)
    if not source.multimodal:
        return Kept(weights=weights)
    config = source.file("config.json")
    part = type(model.config) is not type(source.config)
    whole = json.loads(config.read_text(encoding="utf-8")) if part and config else None
    files = {name: file.read_bytes() for name in _FILES if (file := source.file(name))}
    return Kept(weights=weights, frozen=frozen, config=whole, files=files)


def _names(
    model: PreTrainedModel, state: Mapping[str, Tensor], without: Container[str]
) -> set[str]:
    """Return the names under which weights of the model are saved."""
    some = {key: value for key, value in state.items() if key not in without}
    return set(revert_weight_conversion(model, some))
