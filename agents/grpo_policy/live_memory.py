"""How many bytes of tensors are alive, now and at most: of real tensors or of fake ones."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts what operations allocate while it is entered, until it is freed.

    What one storage holds counts once, however many tensors look at it. The scratch memory inside
    of a kernel is not seen.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """Start with nothing.

        Args:
            known: Tensors that were there before, and do not count.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        """Bytes [B] that are alive."""
        self.peak = 0
        """The most of them [B] so far."""
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
        """Call the operation, and count what it returns in memory of its own."""
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)  # PyTorch keeps the object while the memory is there
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)
