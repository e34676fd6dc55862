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
    """Return whether it is a GGUF file (llama.cpp's format)."""
    return Path(path).suffix == ".gguf" and Path(path).is_file()


@contextmanager
def reading(file: Path) -> Iterator[dict[str, Any]]:
    """Give the arguments of `from_pretrained`; turn its exceptions into one line."""
    try:
        # The progress bar of this conversion cannot be switched off. What is logged still shows.
        with redirect_stderr(io.StringIO()):
            yield {"gguf_file": file.name, "local_files_only": True}
    except ImportError as error:
        raise ConfigError(
            f"model: {file.name} needs the package gguf: {install('smollm2')}"
        ) from error
    except (OSError, ValueError) as error:  # a broken file, an architecture it does not know
        raise ConfigError(f"model.path={file}: {str(error).strip().splitlines()[0]}") from error


def make_ordinary(model: PreTrainedModel) -> None:
    """Make an ordinary model of what was read from a GGUF file: its weights are float32 now."""
    # Transformers still takes it for quantized, and would not save it.
    del model.hf_quantizer, model.is_quantized, model.quantization_method
    del model.config.quantization_config
    model.name_or_path = ""  # no folder to load from: PEFT would look for a config.json, then a hub
