"""What the parts of a proof share: a row of its table, the size of things, models, completions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from grpo_envs.types import Group, Reward
from grpo_policy.models import TINY, load_policy
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import TorchSampler

EVERY_ROW = 10**9
"""Tokens in the cache that no proof reaches: the sampler takes all rows at once."""
_WIDTHS = {"0.6b": 1024, "1.7b": 2048}
"""Of Qwen3, whose two smallest models differ in nothing else."""
_VOCABULARY = 151_936


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure, and what it must be."""

    what: str
    value: float | str
    unit: str = ""
    least: float | None = None
    most: float | None = None

    @property
    def fault(self) -> str:
        """Return what is wrong with the value; nothing where all is well."""
        if isinstance(self.value, str):
            return ""
        if self.least is not None and not self.value >= self.least:
            return f"{self.value:.4g} is below {self.least:g}"
        if self.most is not None and not self.value <= self.most:
            return f"{self.value:.4g} is above {self.most:g}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large everything is: real shapes for a GPU, or small ones that a CPU does in seconds."""

    small: bool
    device: torch.device

    @property
    def gpu(self) -> bool:
        """Whether it is one that runs CUDA."""
        return self.device.type == "cuda"

    def of(self, full: int, small: int) -> int:
        """Return a number for this scale."""
        return small if self.small else full


def config_of(name: str, scale: Scale) -> Qwen3Config:
    """Return the configuration of a Qwen3, with 1/16 of its width and 2 layers where small."""
    width = _WIDTHS[name] // scale.of(1, 16)
    return Qwen3Config(
        vocab_size=_VOCABULARY // scale.of(1, 128),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=scale.of(28, 2),
        num_attention_heads=scale.of(16, 4),
        num_key_value_heads=scale.of(8, 2),
        head_dim=scale.of(128, 16),
        max_position_embeddings=40_960,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        initializer_range=1.5 * width**-0.5,  # layers and context count as in a trained model
    )


def make_policy(name: str, scale: Scale) -> Policy:
    """Return the bundled model (`tiny`), or one of Qwen3's shapes with random weights, in fp32."""
    if name == "tiny":
        return load_policy(str(TINY)).to(scale.device)
    torch.manual_seed(0)
    with scale.device:
        model = Qwen3ForCausalLM(config_of(name, scale))
    return Policy(model, AutoTokenizer.from_pretrained(TINY))


def endless(policy: Policy) -> Policy:
    """Let no completion of a policy end before it has all its tokens."""
    policy.eos_ids = (len(policy.model.get_input_embeddings().weight),)
    return policy


def prompts_of(count: int, length: int, *, ragged: bool = False) -> list[tuple[int, ...]]:
    """Return prompts of any tokens; ragged ones have half the tokens and more."""
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(20, 200, (count, length), generator=random).tolist()
    lengths = [length - i * length // 2 // count if ragged else length for i in range(count)]
    return [tuple(row[:size]) for row, size in zip(ids, lengths, strict=True)]


def sampled(
    sampler: TorchSampler,
    prompts: list[tuple[int, ...]],
    copies: int,
    tokens: int,
    *,
    temperature: float = 1.0,
) -> list[Group]:
    """Return a group of completions for each prompt; members earn 0 and 1 in turn."""
    how = Decoding(max_new_tokens=tokens, temperature=temperature)
    found = dict(sampler.sample(prompts, range(len(prompts) * copies), how))
    return [
        Group(
            key=p,
            prompt="",
            prompt_ids=ids,
            completions=tuple(found[p]),
            rewards=tuple(Reward(parts={"turn": float(i % 2)}) for i in range(copies)),
        )
        for p, ids in enumerate(prompts)
    ]


def as_on_a_card(policy: Policy, scale: Scale) -> Policy:
    """Let a policy compute in bf16 on a GPU, as a run there does."""
    if scale.gpu:
        policy.compute_in(torch.bfloat16)
    return policy


def accelerator_of(scale: Scale) -> Accelerator:
    """Return a new Accelerator: it keeps its settings for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=not scale.gpu, mixed_precision="no")


def wait(scale: Scale) -> None:
    """Wait until a GPU has done all that it was given."""
    if scale.gpu:
        torch.cuda.synchronize()


@contextmanager
def clock(scale: Scale) -> Iterator[list[float]]:
    """Put the seconds that a block takes into the list."""
    taken: list[float] = []
    wait(scale)
    start = time.perf_counter()
    yield taken
    wait(scale)
    taken.append(time.perf_counter() - start)
