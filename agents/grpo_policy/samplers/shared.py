"""A policy in two processes, with its weights in shared memory."""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from multiprocessing.reduction import DupFd
from typing import Any

import torch
from torch import Tensor, nn
from transformers.dynamic_module_utils import init_hf_modules

from grpo_policy.policy import Policy

_ALIGNED = 64
"""Alignment of tensors in bytes, as in PyTorch, so that the same kernels run."""
_PLAIN = (Tensor, nn.Parameter)
"""Classes of tensors in the shared memory. Quantised weights have other classes and are pickled,
because they never change."""
Place = tuple[int, torch.dtype, tuple[int, ...]]
"""The place of a tensor in a memory: its first byte, its dtype and its shape."""


class Memory:
    """Memory that is shared with a child process, to which it is sent at the start.

    It is a file without a name; POSIX shared memory is limited to 64 MiB in containers.
    """

    def __init__(self, size: int) -> None:
        """Allocate `size` bytes."""
        self.size = max(size, 1)
        self._fd = _unnamed()
        os.ftruncate(self._fd, self.size)
        self._map()

    def _map(self) -> None:
        self._bytes = torch.frombuffer(mmap.mmap(self._fd, self.size), dtype=torch.uint8)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a process that is being started."""
        return {"size": self.size, "fd": DupFd(self._fd)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the same memory."""
        self.size, self._fd = state["size"], state["fd"].detach()
        self._map()

    def tensor(self, place: Place) -> Tensor:
        """Return the tensor at a place; it is a view of the memory."""
        start, dtype, shape = place
        count = torch.Size(shape).numel()
        part = self._bytes[start : start + count * dtype.itemsize]
        return part.view(dtype).view(shape)

    def close(self) -> None:
        """Close the file; the memory is freed with its last tensor."""
        os.close(self._fd)


class Shared:
    """The weights of a policy in a `Memory`, and the rest of the policy as a pickle."""

    def __init__(self, policy: Policy) -> None:
        """Copy the policy with the weights that it computes with now.

        Raises:
            pickle.PicklingError, TypeError, AttributeError: a part of the model cannot be pickled.
        """
        every = (*policy.model.parameters(), *policy.model.buffers())
        tensors = {id(tensor): tensor for tensor in every if type(tensor) in _PLAIN}
        self.places: dict[int, Place] = {}
        size = 0
        for number, tensor in tensors.items():
            self.places[number] = (size, tensor.dtype, tuple(tensor.shape))
            size += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        self.memory = Memory(size)
        for number, tensor in tensors.items():
            self._write(self.places[number], tensor)
        self.rest = _pickled(policy, self.places)
        by_name = policy.model.named_parameters()
        self.by_name = {name: self.places[id(p)] for name, p in by_name if id(p) in self.places}

    @torch.no_grad()
    def _write(self, place: Place, tensor: Tensor) -> None:
        self.memory.tensor(place).copy_(tensor)

    def update(self, policy: Policy) -> None:
        """Copy the trained weights, in the dtype that computes, into the memory."""
        for name, p in policy.masters.computing().items():
            self._write(self.by_name[name], p)


def _pickled(policy: Policy, places: dict[int, Place]) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if type(value) not in _PLAIN or id(value) not in places:
                return None
            return type(value) is nn.Parameter, places[id(value)], value.requires_grad

    written = BytesIO()
    with policy.without_masters(), _only_sampling(policy):
        Pickler(written, protocol=pickle.HIGHEST_PROTOCOL).dump(policy)
    return written.getvalue()


@contextmanager
def _only_sampling(policy: Policy) -> Iterator[None]:
    """Within the context the model has no `save_pretrained` of ours, which cannot be pickled."""
    attributes = vars(policy.model)
    saving = attributes.pop("save_pretrained", None)
    try:
        yield
    finally:
        if saving is not None:
            attributes["save_pretrained"] = saving


def opened(rest: bytes, memory: Memory) -> Policy:
    """Return the policy of a `Shared` in another process; its weights are in the memory."""
    if b"transformers_modules" in rest:  # the model has its own Python code
        init_hf_modules()
    found: dict[Place, Tensor] = {}

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, told: tuple[bool, Place, bool]) -> Tensor:
            is_parameter, place, trained = told
            if place not in found:  # tied weights share a place
                tensor = memory.tensor(place)
                found[place] = nn.Parameter(tensor, trained) if is_parameter else tensor
            return found[place]

    policy: Policy = Unpickler(BytesIO(rest)).load()
    return policy


def _unnamed() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("weights")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
