"""The recipe of the bundled tiny Qwen3: `python -m grpo_policy.pretrain`.

The model is trained on demonstrations of the built-in environments (`Problem.solution`). At first
every demonstration thinks before it answers, and the model learns to calculate. Then most
demonstrations answer at once. The model learns to do so, but has too little training to become
accurate at it. Greedily the trained model answers at once and is often wrong; when it thinks, it is
seldom wrong. GRPO increases the share of answers with thinking, so completions grow longer.

Two other recipes left GRPO no such room to improve (measured): wrong labels in the demonstrations,
and short training alone. Run this recipe again when a built-in environment changes its prompts. A
new environment needs another cycle: `--earlier FOLDER --behind 6` runs only the cycles after the
sixth. List the other environments in its `kept`, so that their answers do not change.

The bundled file was not made in one run: each cycle from the third on started from the model of the
cycle before, whose tokenizer had the words of the environments so far. `env=calculator` had its own
form of calls until the sixth cycle; `env=sql` asked the questions of levels 1 and 2 in both of the
last cycles.
"""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

import grpo_envs
from grpo_envs.config.model import ModelConfig
from grpo_envs.env import TextEnv
from grpo_policy.demonstrations import IGNORED, demonstration, encode
from grpo_policy.models import HINTS, TINY, Hints, load_policy
from grpo_policy.policy import Policy
from grpo_policy.vocabulary import CHAT_TEMPLATE, add_words, make_tokenizer

DIRECT_SHARE = 0.65
"""Share of demonstrations that answer at once, in the steps that mix both kinds."""
BATCH_SIZE = 64
_ROWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """A part of training in which the learning rate rises and falls once."""

    environments: tuple[str, ...]
    """Environments that take turns; one that is named twice gives twice as many demonstrations."""
    steps: int
    lr: float
    """Peak learning rate."""
    thinking_steps: int = 0
    """The first steps, in which all demonstrations think; the others mix, see DIRECT_SHARE."""
    kept: tuple[str, ...] = ()
    """Environments in which the model should answer as before the cycle: the targets are its
    distributions before the cycle (Li and Hoiem 2016, Learning without Forgetting, eq. 2)."""


_MATH_AND_CODE = ("math", "math", "code")
CYCLES = (
    Cycle(environments=_MATH_AND_CODE, steps=2700, lr=3e-3, thinking_steps=1500),
    Cycle(environments=_MATH_AND_CODE, steps=900, lr=2e-3),
    Cycle(
        environments=(
            *("math", "code", "format", "countdown", "math", "guess"),
            *("format", "calculator", "math", "code", "format", "countdown"),
        ),
        steps=2000,
        lr=2e-3,
        thinking_steps=800,
    ),
    # The model learns late to copy words, which half of env=format needs.
    Cycle(
        environments=(
            *("format", "math", "format", "code", "format", "countdown"),
            *("format", "math", "guess", "format", "code", "calculator"),
        ),
        steps=1000,
        lr=2e-3,
        thinking_steps=450,
    ),
    # It learns even later to gain from thinking there.
    Cycle(
        environments=(
            *("format", "math", "format", "code", "format", "countdown"),
            *("format", "math", "format", "guess", "format", "calculator"),
        ),
        steps=1500,
        lr=2e-3,
        thinking_steps=1000,
    ),
    # Tool calls. The answers in other environments stay as they are, inaccurate ones included.
    Cycle(
        environments=("calculator", "sql", "sql") * 2,
        kept=("math", "format", "code", "countdown", "guess", "format"),
        steps=200,
        lr=1e-3,
    ),
    # Most demonstrations of the cycle before had no call, and a call must be copied exactly.
    Cycle(
        environments=("calculator", "sql") * 3,
        kept=("math", "format", "code", "countdown", "guess", "format"),
        steps=150,
        lr=1e-3,
        thinking_steps=95,
    ),
)


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Return an untrained Qwen3 of about 0.9 M parameters."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    setattr(config, HINTS, asdict(Hints(lr=1e-4, max_new_tokens=64)))
    return Qwen3ForCausalLM(config)


def _padded(rows: Sequence[list[int]], filler: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])


Row = tuple[list[int], list[int]]
"""Tokens and labels of a demonstration."""


def loss_of(policy: Policy, rows: Sequence[Row], before: Model | None = None) -> Tensor:
    """Return the cross-entropy of the answers in nats, summed.

    Args:
        policy: The policy that is trained.
        rows: Demonstrations.
        before: A model whose distributions are the targets, instead of the demonstrations.
    """
    tokens, labels = zip(*rows, strict=True)
    ids_BL, labels_BL = _padded(tokens, policy.pad_id), _padded(labels, IGNORED)
    places_BL = labels_BL[:, 1:] != IGNORED
    logits_NV = policy.model(input_ids=ids_BL, use_cache=False).logits[:, :-1][places_BL]
    wanted = labels_BL[:, 1:] if before is None else before(ids_BL)[:, :-1]
    targets = wanted[places_BL]
    return torch.nn.functional.cross_entropy(logits_NV, targets, reduction="sum")


Model = Callable[[Tensor], Tensor]
"""A function from tokens (B, L) to the probabilities (B, L, V) of the next token."""


def model_as_it_is(policy: Policy, known: int) -> Model:
    """Return a frozen copy of the model that predicts its first `known` tokens only."""
    frozen = copy.deepcopy(policy.model)

    @torch.no_grad()
    def probabilities(ids_BL: Tensor) -> Tensor:
        logits_BLV: Tensor = frozen(input_ids=ids_BL, use_cache=False).logits
        logits_BLV[..., known:] = -torch.inf
        chances_BLV: Tensor = logits_BLV.softmax(-1)
        return chances_BLV

    return probabilities


def fit(policy: Policy, cycle: Cycle, *, start: int, known: int) -> None:
    """Train for one cycle.

    Args:
        policy: The policy that is trained.
        cycle: The environments, steps and learning rate.
        start: The number of its first demonstration.
        known: Number of tokens that the model knew before.
    """
    weights = policy.parameters()
    optimizer = torch.optim.AdamW(weights, lr=cycle.lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=cycle.lr, total_steps=cycle.steps, pct_start=0.1
    )
    before = model_as_it_is(policy, known) if cycle.kept else None
    for step in range(cycle.steps):
        share = 0.0 if step < cycle.thinking_steps else DIRECT_SHARE
        numbers = range(start + step * BATCH_SIZE, start + (step + 1) * BATCH_SIZE)
        loss = _step(policy, cycle, [(number, share) for number in numbers], before)
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0 or step + 1 == cycle.steps:
            print(f"step {step + 1}/{cycle.steps}  nats per character {loss:.4f}", flush=True)


def _step(
    policy: Policy, cycle: Cycle, asked: Sequence[tuple[int, float]], before: Model | None
) -> float:
    """Sum the gradients of a batch; return its loss in nats per character."""
    names = (*cycle.environments, *cycle.kept)
    demos = [demonstration(_env(names[n % len(names)]), n, share) for n, share in asked]
    characters = sum(len(turn.action) for demo in demos for turn in demo.turns)
    chat, loss = policy.chat, 0.0
    new = [n % len(names) < len(cycle.environments) for n, _ in asked]
    for part, teacher in ((True, None), (False, before)):
        rows = [encode(chat, demo) for demo, one in zip(demos, new, strict=True) if one == part]
        rows.sort(key=lambda row: len(row[0]))  # rows of similar length need little padding
        for i in range(0, len(rows), _ROWS):
            summed = loss_of(policy, rows[i : i + _ROWS], teacher) / characters
            summed.backward()
            loss += summed.item()
    return loss


@functools.cache
def _env(name: str) -> TextEnv:
    return grpo_envs.make(name)


def train(
    out: Path, cycles: Sequence[Cycle], *, seed: int, earlier: Path | None = None, behind: int = 0
) -> None:
    """Make the tokenizer and the model, train it and save both in Transformers format to `out`.

    Args:
        out: Folder to write.
        cycles: The cycles of training, in order.
        seed: Seed of the initial weights.
        earlier: Folder of a model to continue from, instead of new weights.
        behind: Number of cycles that this model has completed.
    """
    torch.manual_seed(seed)
    transformers_logging.disable_progress_bar()
    if earlier is None:
        widest = max(cycles, key=lambda cycle: len({*cycle.environments}))
        every = [_env(name) for name in widest.environments]
        demos = [demonstration(every[i % len(every)], i, 0.0) for i in range(4000)]
        tokenizer = make_tokenizer(demos)
        policy = Policy(make_model(tokenizer), tokenizer)
    else:
        policy = load_policy(str(earlier), ModelConfig(gradient_checkpointing=False))
        policy.tokenizer.chat_template = CHAT_TEMPLATE.read_text(encoding="utf-8")
    known = add_words(policy)
    for number, cycle in enumerate(cycles):
        if number >= behind:
            before = sum(each.steps for each in cycles[:number])
            fit(policy, cycle, start=before * BATCH_SIZE, known=known)
    out.mkdir(parents=True, exist_ok=True)
    policy.model.save_pretrained(out)
    policy.tokenizer.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    print(f"{sum(p.numel() for p in policy.parameters()):,} parameters -> {out}")


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=TINY, help="folder to write (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (%(default)s)")
    parser.add_argument("--earlier", type=Path, help="folder of a model to continue from")
    parser.add_argument("--behind", type=int, default=0, help="cycles that this model completed")
    options = parser.parse_args()
    earlier, behind = options.earlier, options.behind
    train(options.out, CYCLES, seed=options.seed, earlier=earlier, behind=behind)


if __name__ == "__main__":
    main()
