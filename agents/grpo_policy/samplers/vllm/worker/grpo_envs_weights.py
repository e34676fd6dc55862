"""A module for vLLM's worker processes: it loads weights from files or from a run's broadcast.

vLLM's interpreter does not have this project, so this module imports only vLLM, torch, safetensors
and its neighbour. vLLM finds it by PYTHONPATH and imports it for `--worker-extension-cls`. The
import registers the backend `file` of vLLM's weight updates, which accepts broadcasts, too.
"""

from __future__ import annotations

import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from grpo_envs_group import Group, Meeting
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
    weight_transfer_engine: FileEngine
    device: torch.device

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
            "broadcasts": True,
        }

    def about_group(self) -> dict[str, Any]:
        """Return this worker's group, the number of workers and its GPU's UUID, or "" on a CPU."""
        group, cuda = self.weight_transfer_engine.group, self.device.type == "cuda"
        return {
            "group": group.meeting.name if group else "",
            "workers": self.vllm_config.parallel_config.world_size_across_dp,
            "gpu": str(torch.cuda.get_device_properties(self.device).uuid) if cuda else "",
        }

    def end_broken_update(self) -> None:
        """Forget an unfinished update: otherwise vLLM would refuse the next one."""
        self._weight_update_active = False


@dataclass(kw_only=True)
class JoinInit(WeightTransferInitInfo):  # type: ignore[misc]
    """The request to join a run's group; weights in files need no group."""

    meeting: dict[str, Any]
    """The fields of `Meeting`."""


@dataclass
class Update(WeightTransferUpdateInfo):  # type: ignore[misc]
    """The request to load weights: a file, or a broadcast of these tensors in this order."""

    file: str = ""
    """The path or http URL of a file in safetensors format."""
    names: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    """Names of torch, such as bfloat16."""
    shapes: list[list[int]] = field(default_factory=list)


class FileEngine(WeightTransferEngine[JoinInit, Update]):  # type: ignore[misc]
    """Loads weights as vLLM loads a checkpoint."""

    init_info_cls, update_info_cls = JoinInit, Update
    group: Group | None = None
    """The group in which the run broadcasts; None before the first broadcast."""

    def init_transfer_engine(self, init_info: JoinInit) -> None:
        """Join a group; leave the previous one, whose run may have ended."""
        self.shutdown()
        here = self.parallel_config
        rank = 1 + here.data_parallel_index * here.world_size + here.rank
        self.group = Group(Meeting(**init_info.meeting), rank, self.device)

    def shutdown(self) -> None:
        """Leave the group."""
        if self.group is not None:
            self.group.close()
        self.group = None

    def start_weight_update(self) -> None:
        """Prepare layers for weights in the layout of a checkpoint."""
        # Finish an interrupted update first: its layers would count the old weights, too.
        finalize_layerwise_reload(self.model, self.model_config)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load a file. Unlike the base class, do not wait for an accelerator: there may be none."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: Update) -> None:
        """Load one file, or the weights of one broadcast."""
        if update_info.file:
            with _local(update_info.file) as path, torch.device(self.device):
                self.model.load_weights(load_file(path).items())
            return
        if self.group is None:
            raise RuntimeError("this worker is in no group that receives weights")
        try:
            with torch.device(self.device):
                for weights in self.group.received(asdict(update_info)):
                    self.model.load_weights(weights)
        except Exception:  # a part of the broadcast may be unread: the group cannot be used again
            self.shutdown()
            raise

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
