"""Models in GGUF files, the format of llama.cpp: read into ordinary weights."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from grpo_envs.errors import ConfigError, install


def is_gguf(path: str) -> bool:
    """Return whether `path` is a GGUF file (llama.cpp's format)."""
    return Path(path).suffix == ".gguf" and Path(path).is_file()


@contextmanager
def reading(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the arguments of `from_pretrained`; turn its exceptions into one line."""
    try:
        # The progress bar of this conversion cannot be switched off. Log messages are still shown.
        with redirect_stderr(io.StringIO()):
            yield {"gguf_file": file.name, "local_files_only": True}
    except ImportError as error:
        raise ConfigError(
            f"model: {file.name} needs the package gguf: {install('smollm2')}"
        ) from error
    except (OSError, ValueError) as error:  # a broken file, or an unknown architecture
        raise ConfigError(f"model.path={file}: {str(error).strip().splitlines()[0]}") from error


def make_ordinary(model: PreTrainedModel) -> None:
    """Turn a model from a GGUF file into an ordinary one; its weights are float32 already."""
    # Transformers still treats the model as quantized, and would not save it.
    del model.hf_quantizer, model.is_quantized, model.quantization_method
    del model.config.quantization_config
    model.name_or_path = ""  # not a model folder: PEFT would look for config.json, then on the hub
