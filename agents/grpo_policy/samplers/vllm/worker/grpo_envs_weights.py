"""A module for vLLM's own processes: it loads weights from files.

vLLM's interpreter does not have this project, so this module imports only vLLM, torch and
safetensors. vLLM finds it by PYTHONPATH and imports it for `--worker-extension-cls`. The import
registers the backend `file` of vLLM's weight updates.
"""

from __future__ import annotations

import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from vllm import __version__
from vllm.config import VllmConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

_TIMEOUT = 60
"""Seconds of silence after which a download fails."""


class WorkerExtension:
    """A mixin of vLLM's worker, which has these attributes."""

    vllm_config: VllmConfig
    _weight_update_active: bool

    def about_for_runs(self) -> dict[str, Any]:
        """Return the properties that determine what is sampled, beside the weights."""
        config = self.vllm_config
        model, lora, pushes = config.model_config, config.lora_config, config.weight_transfer_config
        return {
            "engine": f"vllm {__version__}",
            "dtype": str(model.dtype).removeprefix("torch."),
            "length": model.max_model_len,
            "logprobs": model.logprobs_mode,
            "pushes": pushes.backend if pushes else "",
            "lora_rank": lora.max_lora_rank if lora else 0,
        }

    def end_broken_update(self) -> None:
        """Forget an unfinished update: otherwise vLLM would refuse the next one."""
        self._weight_update_active = False


@dataclass
class FileInit(WeightTransferInitInfo):  # type: ignore[misc]
    """The initialisation needs no arguments."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):  # type: ignore[misc]
    """Weights by the names of a checkpoint."""

    file: str
    """The path or http URL of a file in safetensors format."""


class FileEngine(WeightTransferEngine[FileInit, FileUpdate]):  # type: ignore[misc]
    """Loads weights as vLLM loads a checkpoint."""

    init_info_cls, update_info_cls = FileInit, FileUpdate

    def init_transfer_engine(self, init_info: FileInit) -> None:
        """Do nothing."""

    def shutdown(self) -> None:
        """Do nothing."""

    def start_weight_update(self) -> None:
        """Prepare layers for weights in the layout of a checkpoint."""
        # Finish an interrupted update first: its layers would count the old weights, too.
        finalize_layerwise_reload(self.model, self.model_config)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load a file. Unlike the base class, do not wait for an accelerator: there may be none."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: FileUpdate) -> None:
        """Load one of the files."""
        with _local(update_info.file) as path, torch.device(self.device):
            self.model.load_weights(load_file(path).items())

    def finish_weight_update(self) -> None:
        """Convert layers to the layout that computes."""
        with torch.device(self.device):
            finalize_layerwise_reload(self.model, self.model_config)
        self._pack_head()

    def _pack_head(self) -> None:
        # On a CPU a head that is tied to the embedding keeps a packed copy of the old weights.
        head = getattr(self.model, "lm_head", None)
        if head is not None and getattr(self.model.config, "tie_word_embeddings", False):
            head.quant_method.process_weights_after_loading(head)


@contextmanager
def _local(file: str) -> Iterator[str]:
    """Yield the path of a file; a URL is downloaded to a temporary file."""
    if not file.startswith("http"):
        yield file
        return
    with tempfile.NamedTemporaryFile() as copy:
        with urllib.request.urlopen(file, timeout=_TIMEOUT) as answer:
            shutil.copyfileobj(answer, copy)
        copy.flush()
        yield copy.name


WeightTransferEngineFactory.register_engine("file", FileEngine)
