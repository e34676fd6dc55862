"""Weights in two precisions: a copy in half precision computes, and the optimiser changes masters.

Sampling and scoring read one copy of the weights in bf16 or fp16, which stays at its address. The
optimiser updates masters in float32 and copies them into it (mixed precision, arXiv 1710.03740).
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
"""Dtypes in which weights are held and written, by the names of `trainer.precision`."""

HEAD = "value_head"
"""Prefix of the parameter names of a module beside the model."""


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name that configurations have for a dtype."""
    return next(name for name, value in DTYPES.items() if value == dtype)


class Masters:
    """The trained parameters of a model, in the precision in which the optimiser updates them.

    Without `compute_in` these are the model's own parameters.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.values: dict[str, nn.Parameter] = {}
        """Masters by the name of the parameter that computes in lower precision."""
        self.head: nn.Module | None = None
        """A module beside the model that is trained with it in float32, such as a value head."""
        self.merges = True
        """Whether adapters are merged into a copy of the weights; a model that never samples does
        not need the copy."""
        self._gradients: dict[str, Tensor] = {}
        """The gradients of the masters summed so far, in float32."""

    def compute_in(self, dtype: torch.dtype, *, whole: bool) -> None:
        """Let the model compute in `dtype` from now on. Call it again after adapters are added.

        Args:
            dtype: bf16 or fp16; the dtype of the weights changes nothing.
            whole: Whether weights that are not trained are converted, too, such as those under
                adapters. Otherwise they do not change. Weights that Transformers keeps in float32
                never change.
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
        """Merge the adapters with their current values, see `grpo_policy.merging.merge`."""
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
        """Return the model's parameters that require a gradient, by name."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that the optimiser updates, by name; the head's come last."""
        found = {n: self.values.get(n, p) for n, p in self.computing().items()}
        head = {} if self.head is None else self.head.named_parameters(HEAD)
        return found | dict(head)

    def take_gradients(self) -> dict[str, Tensor | None]:
        """Return the gradients of the trained parameters, by name, and clear them."""
        found = {}
        for name, p in (self.trained() | self.computing()).items():
            found[name] = self._gradients.pop(name, p.grad)
            p.grad = None
        return found

    @torch.no_grad()
    def publish(self, values: Iterable[tuple[str, Tensor]] | None = None) -> None:
        """Copy the masters, or the given values, into the weights that compute; merge the adapters.

        Call this after every change of trained parameters.
        """
        computing = self.computing()
        for name, value in self.values.items() if values is None else values:
            computing[name].copy_(value)
        self.merge()

    @contextmanager
    def in_place(self, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Within the context the model holds the masters, to be read or written.

        With a dtype the model holds copies of all trained parameters in that dtype, to be read.
        """
        held = self.trained() if dtype else self.values
        by = {n: nn.Parameter(p.detach().to(dtype)) if dtype else p for n, p in held.items()}
        with replaced(self.model, {p: by[n] for n, p in self.computing().items() if n in by}):
            yield

    def take_over(self) -> None:
        """Put the masters into the model and drop the copies in lower precision."""
        computing = self.computing()
        for name, value in self.values.items():
            computing[name].data = value.data
        self.values.clear()

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move the masters as `Module.to` moves the model."""
        for value in self.values.values():
            value.data = fn(value.data)


def _is_kept(model: PreTrainedModel, name: str, dtype: torch.dtype) -> bool:
    """Return whether Transformers keeps a weight in float32 when it loads the model in `dtype`."""
    kept = set(model._keep_in_fp32_modules_strict or ())
    if dtype == torch.float16:
        kept |= set(model._keep_in_fp32_modules or ())
    return not kept.isdisjoint(name.split("."))


@contextmanager
def replaced(model: nn.Module, by: Mapping[nn.Parameter, nn.Parameter]) -> Iterator[None]:
    """Within the context other parameters take the place of some parameters."""
    places = [
        (module, name, p)
        for module in model.modules()
        for name, p in module.named_parameters(recurse=False)
        if p in by
    ]
    try:
        # Assigning p.data would not do: a parameter whose dtype changes loses its hooks.
        for module, name, p in places:
            setattr(module, name, by[p])
        yield
    finally:
        for module, name, p in places:
            setattr(module, name, p)
