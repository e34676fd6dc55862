"""Weights in two precisions: what computes, in half the bytes, and what the optimiser changes.

Sampling and scoring read one copy of the weights, in bf16 or fp16, that stays where it is. The
optimiser steps masters in float32 and copies them into it (mixed precision, arXiv 1710.03740).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grpo_policy.merging import merge

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What weights are held and written in, by the names of `trainer.precision`."""

HEAD = "value_head"
"""What the names of the parameters of a module beside the model begin with."""


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name that configurations have for a dtype."""
    return next(name for name, value in DTYPES.items() if value == dtype)


class Masters:
    """What is trained of a model, in the precision that it is trained in.

    Without `compute_in` these are the model's own parameters.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.values: dict[str, nn.Parameter] = {}
        """By the name of the parameter that computes in less precision."""
        self.head: nn.Module | None = None
        """A module beside the model that is trained with it, in float32, as a value head."""
        self.merges = True
        """Whether adapters are added into the weights: a copy, which a model that never samples
        can do without."""
        self._gradients: dict[str, Tensor] = {}
        """The sums of their gradients so far, in their precision."""

    def compute_in(self, dtype: torch.dtype, *, whole: bool) -> None:
        """Let the model compute in `dtype` from now on. May be called again, as for new adapters.

        Args:
            dtype: bf16 or fp16; that of the weights changes nothing.
            whole: Whether what is not trained takes part, as the model beneath adapters does. Else
                it stays what it is, to the bit. Weights that Transformers keeps in float32 do, too.
        """
        for name, p in self.model.named_parameters():
            stays = not p.is_floating_point() or p.dtype == dtype or not (whole or p.requires_grad)
            if stays or _is_kept(self.model, name, dtype):
                continue
            if p.requires_grad:
                self.values[name] = nn.Parameter(p.data)
                p.register_post_accumulate_grad_hook(partial(self._add, name))
            p.data = p.data.to(dtype)
        self.merge()

    def merge(self) -> None:
        """Compute with the adapters as they are now, see `grpo_policy.merging.merge`."""
        if self.merges:
            merge(self.model)

    def _add(self, name: str, p: Tensor) -> None:
        if p.grad is None:
            return
        if name in self._gradients:
            self._gradients[name] += p.grad
        else:
            self._gradients[name] = p.grad.to(torch.float32)
        p.grad = None

    def computing(self) -> dict[str, nn.Parameter]:
        """Return the model's own parameters that are trained, by name."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def trained(self) -> dict[str, nn.Parameter]:
        """Return what the optimiser changes, by name, that of the head last."""
        found = {n: self.values.get(n, p) for n, p in self.computing().items()}
        head = {} if self.head is None else self.head.named_parameters(HEAD)
        return found | dict(head)

    def take_gradients(self) -> dict[str, Tensor | None]:
        """Return the gradients of what is trained, by name; there are none from then on."""
        found = {}
        for name, p in (self.trained() | self.computing()).items():
            found[name] = self._gradients.pop(name, p.grad)
            p.grad = None
        return found

    @torch.no_grad()
    def publish(self, values: Iterable[tuple[str, Tensor]] | None = None) -> None:
        """Compute with the masters, or with other values of them; the weights stay in place.

        Whoever changes what is trained calls this: adapters are merged as they are now.
        """
        computing = self.computing()
        for name, value in self.values.items() if values is None else values:
            computing[name].copy_(value)
        self.merge()

    @contextmanager
    def in_place(self, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Let the model hold the masters themselves for a while, to be read or written.

        With a dtype: what is trained as it is in that, to be read.
        """
        held = self.trained() if dtype else self.values
        by = {n: nn.Parameter(p.detach().to(dtype)) if dtype else p for n, p in held.items()}
        with replaced(self.model, {p: by[n] for n, p in self.computing().items() if n in by}):
            yield

    def take_over(self) -> None:
        """Let the model hold the masters themselves from now on, and no other copy."""
        computing = self.computing()
        for name, value in self.values.items():
            computing[name].data = value.data
        self.values.clear()

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move them as `Module.to` moves the model."""
        for value in self.values.values():
            value.data = fn(value.data)


def _is_kept(model: PreTrainedModel, name: str, dtype: torch.dtype) -> bool:
    """Return whether Transformers loads a weight in float32 where it loads a model in `dtype`."""
    kept = set(model._keep_in_fp32_modules_strict or ())
    if dtype == torch.float16:
        kept |= set(model._keep_in_fp32_modules or ())
    return not kept.isdisjoint(name.split("."))


@contextmanager
def replaced(model: nn.Module, by: Mapping[nn.Parameter, nn.Parameter]) -> Iterator[None]:
    """Put other parameters into the place of some for a while."""
    places = [
        (module, name, p)
        for module in model.modules()
        for name, p in module.named_parameters(recurse=False)
        if p in by
    ]
    try:
        # Not by p.data: a parameter whose dtype changes loses its hooks.
        for module, name, p in places:
            setattr(module, name, by[p])
        yield
    finally:
        for module, name, p in places:
            setattr(module, name, p)
