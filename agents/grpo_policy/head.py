"""From a model's last hidden states to its logits, if that is more than a matrix product."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """Return the part of a model that computes the last hidden states."""
    decoder = model.get_decoder()
    return cast("nn.Module", model.model if decoder is model else decoder)  # model: Llama 4


class OwnHead(nn.Module):
    """The logits as the model computes them, scaled or capped (Gemma 2, Cohere).

    The model's own `forward` runs with given hidden states in place of its decoder's result, so
    nothing of the model is reimplemented here.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.linear = model.get_output_embeddings()
        self._model = [model]  # in a list, so that its weights are not registered as the head's

    @property
    def weight(self) -> Tensor:
        """The matrix (V, D)."""
        return cast("Tensor", self.linear.weight)

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Return the logits (N, V)."""
        model = self._model[0]
        decoder = decoder_of(model)
        own = decoder.__dict__.get("forward")

        def instead(*_: Any, **__: Any) -> _Hidden:
            return _Hidden(last_hidden_state=cast("Any", hidden_ND[None]))

        decoder.__dict__["forward"] = instead
        try:
            ids_1N = torch.zeros(1, len(hidden_ND), dtype=torch.long, device=hidden_ND.device)
            return cast("Tensor", model(input_ids=ids_1N, use_cache=False).logits[0])
        finally:
            del decoder.__dict__["forward"]
            if own is not None:
                decoder.__dict__["forward"] = own


class _Hidden(BaseModelOutputWithPast):
    """A decoder's result; other attributes that a model reads are None (router logits)."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
