"""The device memory that a run needs: its parts, their sizes, and the phases of a step.

The memory of passes is measured on a policy of fake tensors, see `grpo_policy.fake_policy`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from grpo_policy.cache_size import cache_bytes_a_token, window_bytes
from grpo_policy.fake_policy import draw_bytes, head_work, layers_work, state_bytes
from grpo_policy.full_sharding import outer_layers
from grpo_policy.merging import merged_weights
from grpo_policy.policy import Policy
from grpo_policy.samplers.budget import Budget, tokens_in
from grpo_policy.samplers.prepacked import linear_layers
from grpo_policy.samplers.torch import TorchSampler
from grpo_policy.scoring import chunk_tokens, packed_copies

SAMPLING, UPDATE = "sampling", "update"
PHASES = (SAMPLING, UPDATE)
"""Phases of a step: memory that only one phase needs is free in the other."""
MASTER, MOMENTS, MOMENTS_8BIT, GRADIENT = 4, 8, 2, 4
"""Bytes [B] per trained parameter: its float32 master, if another copy computes; AdamW's two
moments, in float32 or in eight bits; the sum of its gradients in float32."""
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes [B] of a weight in four bits: 64 weights share a scale of eight bits, and 256 scales share
one in float32 (QLoRA, arXiv 2305.14314)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the memory."""

    name: str
    size: float
    """Bytes [B]."""
    how: str
    """How the size is computed."""
    phases: tuple[str, ...] = PHASES
    """() on another device: it is shown and not counted."""
    by_weight: bool = True
    """Whether the size depends on the weights alone, not on rows or their length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The numbers of a run that determine how much memory it needs."""

    sampled_in: torch.dtype
    """Dtype of weights and cache while sampling."""
    device: str
    """cuda or cpu; it determines how many tokens are scored at once."""
    prompt: int
    """Tokens of a prompt."""
    answer: int
    """The most tokens of an answer."""
    micro_batch_tokens: int
    group_size: int
    completions: int
    """Completions of a step."""
    batch_tokens: int | None = None
    """Tokens in the cache at once; None: by free memory, as in the sampler."""
    reference: bool = False
    average: bool = False
    """Whether the reference is a moving average of the policy."""
    others: tuple[Part, ...] = ()
    """Models beside the policy that only score: see `grpo_policy.scorers`."""
    critic: bool = False
    """Whether there is a critic with its own body."""
    quantized: bool = False
    """Whether the layers under the adapters are in four bits."""
    moments: float = MOMENTS
    """Bytes [B] of AdamW's moments per trained parameter."""
    shards: int = 1
    """Processes that share masters and moments (FSDP)."""
    full: bool = False
    """Whether the processes also share weights and gradients."""
    engine: bool = False
    """Whether an engine samples, in memory of its own."""
    lag: int = 0
    """Steps that are sampled ahead, while the policy is updated (`trainer.lag`)."""
    memory: float | None = None
    """Bytes [B] of the device; None if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The parts of a run's memory."""

    parts: tuple[Part, ...]
    parameters: int
    trained: int
    row: int
    """Tokens of a prompt and its answer."""
    a_token: float
    """Bytes [B] of activations per token."""

    def needed(self, phase: str) -> float:
        """Return the bytes [B] of a phase at its peak."""
        return sum(part.size for part in self.parts if phase in part.phases)

    @property
    def by_weight(self) -> float:
        """The bytes [B] of an update that do not depend on its rows."""
        return sum(part.size for part in self.parts if part.by_weight and UPDATE in part.phases)

    @property
    def peak(self) -> float:
        """The bytes [B] of the larger phase."""
        return max(map(self.needed, PHASES))


def footprint(policy: Policy, job: Job) -> Footprint:
    """Return the memory that a run needs.

    Args:
        policy: A policy of `fake_policy`, its weights in the dtype that computes.
        job: The numbers of the run.
    """
    row = min(job.prompt + job.answer, policy.context_length)
    lasting = list(_in_parts(policy, job) if job.full else _weights(policy, job))
    held = sum(part.size for part in lasting if SAMPLING in part.phases)
    rows = max(1, job.micro_batch_tokens // row)
    layers = layers_work(policy, rows, row)
    update = _update(policy, job, rows, row, saved=layers.saved, extra=layers.extra)
    sampling = () if job.engine else _sampling(policy, job, row, held)
    parts = [*lasting, *job.others, *_ahead(policy, job), *sampling, *update]
    if job.lag:  # both phases at once
        parts = [replace(part, phases=part.phases and PHASES) for part in parts]
    return Footprint(
        parts=tuple(parts),
        parameters=policy.size,
        trained=sum(p.numel() for p in policy.trained_parameters()),
        row=row,
        a_token=layers.saved / (rows * row),
    )


def _weights(policy: Policy, job: Job) -> Iterator[Part]:
    """Yield the parts whose size is proportional to the number of parameters."""
    dtype, weights = policy.model.dtype, list(policy.model.parameters())
    trained = sum(p.numel() for p in policy.trained_parameters())
    whole, adapted = sum(p.numel() * p.element_size() for p in weights), _adapted(policy)
    held = f"{dtype.itemsize} bytes a parameter"
    if job.quantized:
        whole -= (dtype.itemsize - NF4) * adapted
        held = f"{NF4:.2f} bytes of {adapted / 1e6:,.1f} M, {dtype.itemsize} of the others"
    shared = f", shared by {job.shards} processes" if job.shards > 1 else ""
    yield Part(name="weights", size=whole, how=held)
    if dtype.itemsize < MASTER or job.shards > 1:
        text = f"{MASTER} bytes a trained parameter{shared}"
        yield Part(name="masters", size=MASTER * trained / job.shards, how=text)
    text = f"{job.moments:g} bytes a trained parameter{shared}"
    yield Part(name="moments", size=job.moments * trained / job.shards, how=text)
    text = f"{GRADIENT} bytes a trained parameter"
    yield Part(name="gradients", size=GRADIENT * trained, how=text, phases=(UPDATE,))
    if job.reference and not policy.has_adapters:
        text = f"{dtype.itemsize} bytes a parameter"
        yield Part(name="reference", size=whole, how=text)
        if job.average and dtype.itemsize < MASTER:
            text = f"{MASTER} bytes a parameter of the reference, the average in float32"
            yield Part(name="average", size=MASTER * policy.size, how=text)
    if job.critic:
        yield _critic(policy, job)
    merged = sum(weight.numel() for weight in merged_weights(policy.model))
    if merged:
        text = f"{merged / 1e6:,.1f} M parameters with their adapters added"
        yield Part(name="merged", size=dtype.itemsize * merged, how=text)
    if job.sampled_in.itemsize < dtype.itemsize and not job.engine:
        size = job.sampled_in.itemsize
        text = f"{size} bytes a parameter, while sampling"
        size *= policy.size + merged
        yield Part(name="copy", size=size, how=text, phases=(SAMPLING,))
    packed = sum(layer.weight.numel() for layer in linear_layers(policy.model))
    if packed and job.device == "cpu" and not job.engine:
        text = f"{packed / 1e6:,.1f} M parameters once more, in another layout"
        size = job.sampled_in.itemsize * packed
        yield Part(name="prepacked", size=size, how=text, phases=(SAMPLING,))


def _critic(policy: Policy, job: Job) -> Part:
    """Return the memory of a critic: weights, masters and moments of a second trained body.

    Its gradients and activations exist after the policy's and take no more memory than these.
    """
    head = policy.model.get_output_embeddings().weight
    alone = head is not policy.model.get_input_embeddings().weight and head.requires_grad
    trained = sum(p.numel() for p in policy.trained_parameters()) - alone * head.numel()
    held = policy.model.dtype.itemsize
    masters = MASTER if held < MASTER or job.shards > 1 else 0
    each = held + (masters + job.moments) / job.shards
    text = f"{each:g} bytes of each of {trained / 1e6:,.1f} M: weights, masters, moments"
    return Part(name="critic", size=each * trained, how=text)


def _in_parts(policy: Policy, job: Job) -> Iterator[Part]:
    """Yield the parts that are proportional to the parameters, with `full_sharding`."""
    size, shared = policy.model.dtype.itemsize, f"shared by {job.shards} processes"
    averaged = job.reference and job.average and size < MASTER
    for name, each, phases in (
        ("weights", MASTER, PHASES),
        ("moments", job.moments, PHASES),
        ("gradients", GRADIENT, (UPDATE,)),
        *((("reference", size, PHASES),) if job.reference else ()),
        *((("average", MASTER, PHASES),) if averaged else ()),
    ):
        text = f"{each:g} bytes a parameter, {shared}"
        yield Part(name=name, size=each * policy.size / job.shards, how=text, phases=phases)
    layers = [sum(p.numel() for p in layer.parameters()) for layer in outer_layers(policy)]
    rest, largest = policy.size - sum(layers), max(layers, default=0)
    # One layer computes while the next is gathered; gradients are exchanged in float32.
    whole = 2 * size * (rest + 2 * largest) + GRADIENT * max(rest, largest)
    text = f"{rest / 1e6:,.1f} M parameters and two layers whole, with gradients"
    yield Part(name="gathered", size=whole, how=text, phases=(UPDATE,))


def _ahead(policy: Policy, job: Job) -> Iterator[Part]:
    """Yield the copies of weights that sampling ahead needs."""
    size = policy.model.dtype.itemsize
    if job.lag and not job.engine:
        text = f"{size} bytes a parameter, of the process that samples"
        yield Part(name="sampler", size=size * policy.size, how=text)
    if job.lag > 1:
        trained = sum(p.numel() for p in policy.trained_parameters())
        text = f"{job.lag - 1} x {size} bytes a trained parameter, of steps that wait for weights"
        yield Part(name="waiting", size=(job.lag - 1) * size * trained, how=text)


def _adapted(policy: Policy) -> int:
    """Return the number of parameters in the layers that have adapters."""
    layers: list[Any] = [m for m in policy.model.modules() if hasattr(m, "get_base_layer")]
    return sum(layer.get_base_layer().weight.numel() for layer in layers)


def _sampling(policy: Policy, job: Job, row: int, held: float) -> Iterator[Part]:
    """Yield the memory of sampling beside the weights, which take `held` bytes."""
    config, dtype = policy.model.config, job.sampled_in
    tokens = job.batch_tokens
    if tokens is None and job.memory is not None:
        tokens = tokens_in(max(0.0, job.memory - held), config, dtype)
    most: Any = next(f.default for f in fields(TorchSampler) if f.name == "batch_size")
    rows = min(Budget(most, tokens).at_once(row, job.group_size), job.completions)
    a_token = cache_bytes_a_token(config, dtype)
    each = row * a_token + window_bytes(config, dtype) + state_bytes(policy)
    cache = f"{rows:,} rows x {row:,} tokens, {a_token / 2**10:,.0f} KiB a token"
    logits = f"{rows:,} rows x {len(policy.model.get_output_embeddings().weight):,} words"
    for name, size, text in (
        ("cache", rows * each, cache),
        ("logits", rows * draw_bytes(policy), logits),
    ):
        yield Part(name=name, size=size, how=text, phases=(SAMPLING,), by_weight=False)


def _update(
    policy: Policy, job: Job, rows: int, row: int, *, saved: float, extra: float
) -> Iterator[Part]:
    """Yield the memory of a micro-batch; the head and the backward pass follow one another."""
    weight_VD = policy.model.get_output_embeddings().weight
    tokens = min(chunk_tokens(job.device, len(weight_VD)), rows * min(job.answer, row))
    head = head_work(policy, tokens)
    kept = f"{rows:,} rows x {row:,} tokens, {saved / (rows * row) / 2**20:,.2f} MiB a token"
    text = f"{tokens:,} tokens scored at once" if head > extra else "the largest layer, backward"
    for name, size, how in (("activations", saved, kept), ("scratch", max(head, extra), text)):
        yield Part(name=name, size=size, how=how, phases=(UPDATE,), by_weight=False)
    if job.device == "cpu" and (copies := packed_copies(weight_VD)):
        text = f"{copies} copies of the head, in another layout"
        yield Part(name="packed head", size=copies * weight_VD.nbytes, how=text, phases=(UPDATE,))
