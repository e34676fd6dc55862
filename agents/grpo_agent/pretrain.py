"""The recipe of the bundled tiny Qwen3: `python -m grpo_agent.pretrain`.

Supervised on demonstrations that the built-in environments give of themselves
(`Problem.solution`). At first every demonstration thinks before it answers, and the model learns
to calculate. Then most of them answer at once, and the model takes up that habit without the time
to become good at it. Greedily it now answers at once and is often wrong; when it thinks it seldom
is: GRPO finds that out, and completions grow longer as it does.

What leaves no such room (measured): wrong labels in the demonstrations, and short training alone.
Run it again when a built-in environment is added or changes its prompts.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

import grpo_envs
from grpo_agent.models import HINTS, TINY, Hints
from grpo_agent.policy import Policy
from grpo_envs.env import TextEnv
from grpo_envs.seeding import rng_for

ENVIRONMENTS = ("math", "math", "code")
"""They take turns; who is named twice has twice as many."""
DIRECT_SHARE = 0.65
"""Demonstrations that answer at once, where a cycle mixes."""
BATCH_SIZE = 64
VOCABULARY = 512
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = ("<think>", "</think>", "<answer>", "</answer>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PIECES = r" ?\p{L}+|\p{N}|[^\s\p{L}\p{N}]|\s+"
"""Words with the space before them; single digits and symbols, as Qwen's own tokenizer has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A prompt and an answer to imitate."""

    system_prompt: str
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """A stretch of training over which the learning rate rises and falls once."""

    steps: int
    lr: float
    """Peak learning rate."""
    thinking_steps: int = 0
    """So many steps of it show thinking only; the others mix, see DIRECT_SHARE."""


CYCLES = (Cycle(steps=2700, lr=3e-3, thinking_steps=1500), Cycle(steps=900, lr=2e-3))


def demonstration(
    envs: Sequence[TextEnv], number: int, seed: int, direct_share: float
) -> Demonstration:
    """Return demonstration `number`."""
    env = envs[number % len(envs)]
    problem = env.problem(number, "train")
    answer = problem.solution
    if rng_for("pretrain", seed, number).random() < direct_share:
        answer = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)
    return Demonstration(system_prompt=env.system_prompt, prompt=problem.prompt, answer=answer)


def make_tokenizer(demos: Sequence[Demonstration]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: any text in, the environments' words as one token each."""
    texts = [f"system\n{demo.system_prompt}\n" for demo in demos]
    texts += [f"user\n{demo.prompt}\nassistant\n{demo.answer}\n" for demo in demos]
    pieces = [piece for text in texts for piece in re.split("|".join(WORDS), text)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CONTROL) - len(WORDS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(pieces, trainer)
    bpe.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    bpe.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Return an untrained Qwen3 of about 0.8 M parameters."""
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


def _collate(policy: Policy, batch: Sequence[Demonstration]) -> tuple[Tensor, Tensor]:
    """Return input_ids_BL and labels_BL, the latter -100 outside the answers."""
    rows, labels = [], []
    for demo in batch:
        prompt = policy.render(demo.prompt, demo.system_prompt)
        answer = [*policy.tokenizer(demo.answer)["input_ids"], policy.eos_ids[0]]
        rows.append([*prompt, *answer])
        labels.append([-100] * len(prompt) + answer)
    longest = max(map(len, rows))
    ids_BL = torch.tensor([row + [policy.pad_id] * (longest - len(row)) for row in rows])
    labels_BL = torch.tensor([row + [-100] * (longest - len(row)) for row in labels])
    return ids_BL, labels_BL


def loss_of(policy: Policy, demos: Sequence[Demonstration], characters: int) -> Tensor:
    """Return the cross-entropy of the answers in nats, summed and divided by `characters`."""
    ids_BL, labels_BL = _collate(policy, demos)
    logits_BLV = policy.model(input_ids=ids_BL, use_cache=False).logits[:, :-1]
    summed = torch.nn.functional.cross_entropy(
        logits_BLV.flatten(0, 1), labels_BL[:, 1:].flatten(), reduction="sum"
    )
    return summed / characters


def fit(policy: Policy, envs: Sequence[TextEnv], cycle: Cycle, *, start: int, seed: int) -> None:
    """Train through one cycle, on demonstrations number `start` and after."""
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=cycle.lr, weight_decay=0.01, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=cycle.lr, total_steps=cycle.steps, pct_start=0.1
    )
    for step in range(cycle.steps):
        share = 0.0 if step < cycle.thinking_steps else DIRECT_SHARE
        numbers = range(start + step * BATCH_SIZE, start + (step + 1) * BATCH_SIZE)
        demos = [demonstration(envs, number, seed, share) for number in numbers]
        demos.sort(key=lambda demo: len(demo.answer))
        characters = sum(len(demo.answer) for demo in demos)
        halves = demos[: BATCH_SIZE // 2], demos[BATCH_SIZE // 2 :]  # less padding than at once
        losses = [loss_of(policy, half, characters) for half in halves]
        sum(losses, torch.tensor(0.0)).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0 or step + 1 == cycle.steps:
            loss = sum(part.item() for part in losses)
            told = f"step {step + 1}/{cycle.steps}  nats per character {loss:.4f}"
            print(told, flush=True)


def train(out: Path, cycles: Sequence[Cycle], seed: int) -> None:
    """Make the tokenizer and the model, train it and save both in Transformers format to `out`."""
    torch.manual_seed(seed)
    transformers_logging.disable_progress_bar()
    envs = [grpo_envs.make(name) for name in ENVIRONMENTS]
    tokenizer = make_tokenizer([demonstration(envs, i, seed, 0.0) for i in range(2000)])
    policy = Policy(make_model(tokenizer), tokenizer)
    start = 0
    for cycle in cycles:
        fit(policy, envs, cycle, start=start, seed=seed)
        start += cycle.steps * BATCH_SIZE
    out.mkdir(parents=True, exist_ok=True)
    policy.model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    print(f"{sum(p.numel() for p in policy.parameters()):,} parameters -> {out}")


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=TINY, help="folder to write (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (%(default)s)")
    options = parser.parse_args()
    train(options.out, CYCLES, options.seed)


if __name__ == "__main__":
    main()
