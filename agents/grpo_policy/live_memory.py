"""The bytes of live tensors, now and at their peak, for real tensors and fake ones."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts the memory that operations allocate within this context, until it is freed.

    A storage counts once, however many tensors view it. Scratch memory inside a kernel does not
    count.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """Start at 0 bytes.

        Args:
            known: Tensors that exist already and do not count.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        """Bytes [B] that are alive."""
        self.peak = 0
        """The most live bytes [B] so far."""
        self._sizes: dict[int, int] = {}
        for tensor in known:
            self._sizes[id(tensor.untyped_storage())] = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the operation, and count new storages of its results."""
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)  # PyTorch keeps this object as long as the memory
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)
