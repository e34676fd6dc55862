"""A causal language model with its tokenizer: renders prompts and scores tokens."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo_policy.batch import Batch
from grpo_policy.block_attention import by_blocks
from grpo_policy.chat import Chat, end_tokens
from grpo_policy.context import cap_scores, context_length_of, fix_rope, heads_of
from grpo_policy.gated_layers import fuse_gated_layers
from grpo_policy.head import OwnHead, decoder_of
from grpo_policy.kv_cache import Caching
from grpo_policy.masters import Masters, replaced
from grpo_policy.merging import merged_in
from grpo_policy.packing import MASK_BYTES, mask_bytes, pack, saves
from grpo_policy.parts import all_finite
from grpo_policy.recomputing import recompute_layers
from grpo_policy.rms_norm import fuse_norms
from grpo_policy.saving import save
from grpo_policy.scoring import score_tokens
from grpo_policy.value_head import ValueHead
from grpo_policy.windows import Reach


class Policy(nn.Module):
    """The model that is trained. `forward` scores tokens."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template_variables: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model.eval()  # no dropout, neither while sampling nor while scoring
        self.masters = Masters(self.model)
        """The trained parameters, in the precision in which the optimiser updates them."""
        fix_rope(self.model)
        cap_scores(self.model)
        fuse_norms(self.model)
        fuse_gated_layers(self.model)
        self.tokenizer = tokenizer
        self.template_variables = dict(template_variables or {})
        """Variables of the chat template beside the messages."""
        self.eos_ids = end_tokens(tokenizer, model.generation_config, self.template_variables)
        pad = tokenizer.pad_token_id
        self.pad_id = int(self.eos_ids[0] if pad is None else pad)
        self.share_prompts = True
        """Whether `forward` may pack rows of a group; it packs them if that saves operations."""
        self.fixes = True
        """Whether a decoding step may take the cache column that it writes from a tensor."""
        self.caching = Caching()
        """How the model takes its cache while sampling."""
        self.reach: Reach | None = None
        """The length up to which the model is sampled as it scores; None: at any length."""
        self.own_head = False
        """Whether logits are more than a matrix times the last hidden state (scaled, capped)."""
        self.computes_in: torch.dtype | None = None
        """The dtype in which weights are gathered, if they are sharded; see `dtype`."""
        self.version = 0
        """Counts the changes of the weights: each update and each restore."""
        self.value_head: ValueHead | None = None
        """The value head of a critic that shares the body, see `add_value_head`."""
        self.masters.merge()

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return cast("torch.device", self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the model computes."""
        return self.computes_in or cast("torch.dtype", self.model.dtype)

    @property
    def size(self) -> int:
        """The number of parameters."""
        return int(self.model.num_parameters())  # counts packed quantised weights correctly

    @property
    def last_logits(self) -> dict[str, int]:
        """The argument that restricts logits to the last position; {} if the model has none."""
        known = inspect.signature(self.model.forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    @property
    def context_length(self) -> int:
        """The most tokens that the model can attend to; `NO_LIMIT` if there is no limit."""
        own = context_length_of(self.model.config)
        return min(own, self.reach.tokens) if self.reach else own

    @property
    def has_adapters(self) -> bool:
        """Whether only adapters (LoRA) are trained."""
        return bool(getattr(self.model, "_hf_peft_config_loaded", False))

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """Switch the adapters off: the reference model, without a second copy."""
        self.model.disable_adapters()
        try:
            yield
        finally:
            self.model.enable_adapters()

    @contextmanager
    def weights_in(self, dtype: torch.dtype) -> Iterator[None]:
        """Within the context the weights are in `dtype`; afterwards the originals are back.

        Sampling a token reads every weight once and computes little with it, so half the bytes take
        half the time. The copies are freed afterwards.
        """
        other = {
            p: nn.Parameter(p.detach().to(dtype), requires_grad=p.requires_grad)
            for p in self.model.parameters()
            if p.is_floating_point() and p.dtype != dtype
        }
        with replaced(self.model, other), merged_in(self.model, dtype):
            yield

    def sampled_in(self, dtype: torch.dtype | None) -> AbstractContextManager[None]:
        """Within the context the weights are in `dtype`; None leaves them as they are."""
        return self.weights_in(dtype) if dtype else nullcontext()

    def compute_in(self, dtype: torch.dtype) -> None:
        """Let the model compute in `dtype` from now on, see `Masters.compute_in`."""
        frozen = not any(p.requires_grad for p in self.model.parameters())
        self.masters.compute_in(dtype, whole=self.has_adapters or frozen)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the masters with the model, as `to` does, and the merged weights."""
        self.masters.move(fn)
        moved = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.masters.merge()
        return moved  # type: ignore[no-any-return]

    def copied(self) -> Policy:
        """Return a copy in the dtype that this policy computes in, without masters.

        The tokenizer and the weights that are not trained are shared by both.
        """
        same = [self.tokenizer, *(p for p in self.model.parameters() if not p.requires_grad)]
        with self.without_masters():
            return copy.deepcopy(self, {id(each): each for each in same})

    @contextmanager
    def without_masters(self) -> Iterator[None]:
        """Within the context the policy has no masters, so that a copy gets none."""
        masters, self.masters = self.masters, Masters(self.model)
        try:
            yield
        finally:
            self.masters = masters

    def frozen_copy(self) -> Policy:
        """Return a copy that is not trained, see `copied`."""
        return self.copied().requires_grad_(False).eval()

    def checkpoint_layers(self) -> None:
        """Recompute each decoder layer in the backward pass: less memory, more time.

        Transformers' own switch works in training mode only, in which dropout is active.
        """
        recompute_layers(self.model)

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the optimiser updates: adapters if there are any, else all."""
        return list(self.masters.trained().values())

    def trained_weights(self) -> dict[str, Tensor]:
        """Return the values of the trained parameters by name."""
        return {name: p.detach() for name, p in self.masters.trained().items()}

    def save(self, folder: Path, dtype: str = "fp32") -> None:
        """Write model and tokenizer in Transformers' format, see `grpo_policy.saving.save`."""
        save(self, folder, dtype)

    def finite(self) -> bool:
        """Return whether all trained weights are finite; all processes must call it."""
        return all_finite(self.model)

    @property
    def chat(self) -> Chat:
        """The conversion between text and tokens, by tokenizer and chat template."""
        known = len(self.model.get_input_embeddings().weight)
        return Chat(
            self.tokenizer, self.eos_ids, self.context_length, known, self.template_variables
        )

    def render(self, prompt: str, system_prompt: str = "") -> tuple[int, ...]:
        """Return the tokens of a prompt, see `Chat.render`."""
        return self.chat.render(prompt, system_prompt)

    def follow_up(self, observation: str, *, ended: bool) -> tuple[int, ...]:
        """Return the tokens between an answer and the next, see `Chat.follow_up`."""
        return self.chat.follow_up(observation, ended=ended)

    def decode(self, token_ids: tuple[int, ...]) -> str:
        """Return the text of a completion, see `Chat.decode`."""
        return self.chat.decode(token_ids)

    def forward(
        self, batch: Batch, temperature: float, *, entropy_grad: bool = False
    ) -> tuple[Tensor, ...]:
        """Score the completion tokens of `batch` at `temperature`, one chunk at a time.

        Returns:
            `logps_BT`, the log-probability of each completion token, 0 outside the mask, and
            `entropy_BT`, the entropy in nats of the full distribution of the token; the entropy
            has a gradient only with `entropy_grad`. A value head adds `values_BT`, the value of
            the state before each token.
        """
        hidden_ND = self.hidden(batch)
        scores = self.scores(hidden_ND, batch, temperature, entropy_grad=entropy_grad)
        return (*scores, self.value_head(hidden_ND, batch)) if self.value_head else scores

    def hidden(self, batch: Batch) -> Tensor:
        """Return the hidden state (N, D) from which each chosen token is predicted."""
        return self.packed(batch) if self.packs(batch) else self._by_rows(batch)

    def scores(
        self, hidden_ND: Tensor, batch: Batch, temperature: float, *, entropy_grad: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Score the completion tokens, given the hidden states from which they are predicted."""
        rows_N, columns_N = batch.mask_BT.nonzero(as_tuple=True)
        targets_N = batch.token_ids_BT[rows_N, columns_N]
        head = OwnHead(self.model) if self.own_head else self.model.get_output_embeddings()
        logps_N, entropy_N = score_tokens(
            hidden_ND, targets_N, head, temperature, entropy_grad=entropy_grad
        )
        zeros_BT = logps_N.new_zeros(batch.mask_BT.shape)
        index = (rows_N, columns_N)
        return zeros_BT.index_put(index, logps_N), zeros_BT.index_put(index, entropy_N)

    @property
    def takes_pairs(self) -> bool:
        """Whether all layers use PyTorch's attention (sdpa), which takes any mask of pairs."""
        text = self.model.config.get_text_config()  # the language part of a multimodal model
        layers = set(getattr(text, "layer_types", None) or ["full_attention"])
        plain = layers == {"full_attention"} and not getattr(text, "sliding_window", None)
        masked = getattr(self.model.config, "_attn_implementation", "") == "sdpa"
        return self.share_prompts and plain and masked

    def packs(self, batch: Batch, budget: int | None = None) -> bool:
        """Return whether rows of a group share their prompt's pass through the model.

        They do if this takes fewer operations and the attention takes any mask (`takes_pairs`). A
        mask with an entry for each pair must not exceed `MASK_BYTES`.

        Args:
            batch: Rows; the rows of a group are next to each other.
            budget: The tokens of a part, if the batch will pass in parts.
        """
        config = self.model.config
        depth = getattr(config, "num_hidden_layers", 0)
        if not (self.takes_pairs and depth):
            return False
        blocks = self._by_blocks
        if not blocks and mask_bytes(batch, budget) > MASK_BYTES:
            return False
        known = len(self.model.get_input_embeddings().weight)
        body = sum(p.numel() for p in self.model.parameters() if known not in p.shape[:1])
        heads, size = heads_of(config)
        kind = "blocks" if blocks else "rows" if self.device.type == "cpu" else "pairs"
        return saves(batch, 2.0 * body, 4.0 * depth * heads * size, attention=kind)

    @property
    def _by_blocks(self) -> bool:
        return by_blocks(self.device, self.model.dtype, heads_of(self.model.config)[1])

    def _by_rows(self, batch: Batch) -> Tensor:
        """Return the hidden states (N, D), with a row for each completion."""
        decoder = decoder_of(self.model)
        hidden_BLD = decoder(input_ids=batch.input_ids_BL, use_cache=False).last_hidden_state
        rows_N, columns_N = batch.mask_BT.nonzero(as_tuple=True)
        # The token at position t is predicted from position t - 1.
        return cast("Tensor", hidden_BLD[rows_N, batch.prompt_lengths_B[rows_N] + columns_N - 1])

    def packed(self, batch: Batch) -> Tensor:
        """Return the hidden states (N, D), with each prompt passed through the model once."""
        packs = pack(batch, self.pad_id)
        hidden_KLD = decoder_of(self.model)(
            input_ids=packs.input_ids_KL,
            attention_mask=packs.blocks() if self._by_blocks else packs.pairs(),
            position_ids=packs.position_ids_KL,
            use_cache=False,
        ).last_hidden_state
        return cast("Tensor", hidden_KLD[packs.pack_N, packs.before_N])
