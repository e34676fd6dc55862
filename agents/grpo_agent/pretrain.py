"""The recipe of the bundled tiny Qwen3: `python -m grpo_agent.pretrain`.

Supervised on demonstrations that the built-in environments give of themselves
(`Problem.solution`), with one deliberate habit: most of them answer at once, the rest think
first. Answering at once is often wrong for a model of this size and thinking seldom is, so that
GRPO has something to find out. Wrong labels and short training leave no such room (measured).

Run it again when a built-in environment is added or changes its prompts.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

import grpo_envs
from grpo_agent.models import TINY
from grpo_agent.policy import Policy
from grpo_envs.env import TextEnv
from grpo_envs.seeding import rng_for

ENVIRONMENTS = ("math",)
DIRECT_SHARE = 0.65
"""Demonstrations that answer at once."""
VOCABULARY = 448
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


def demonstrations(
    envs: Sequence[TextEnv], seed: int, habit_after: int = 0
) -> Iterator[Demonstration]:
    """Yield demonstrations for ever, the environments in turn."""
    number = 0
    while True:
        for env in envs:
            problem = env.problem(number, "train")
            direct = (
                rng_for("pretrain", seed, number).random() < DIRECT_SHARE and number >= habit_after
            )
            answer = problem.solution
            if direct:
                answer = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)
            yield Demonstration(
                system_prompt=env.system_prompt, prompt=problem.prompt, answer=answer
            )
        number += 1


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


def make_model(tokenizer: PreTrainedTokenizerFast, width: int) -> Qwen3ForCausalLM:
    """Return an untrained Qwen3 of about 0.8 M parameters."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
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


def train(
    out: Path, *, width: int = 128, habit: int, steps: int, batch_size: int, lr: float, seed: int
) -> None:
    """Make the tokenizer and the model, train it and save both in Transformers format to `out`."""
    torch.manual_seed(seed)
    envs = [grpo_envs.make(name) for name in ENVIRONMENTS]
    stream = demonstrations(envs, seed, 2000 + habit * batch_size)
    tokenizer = make_tokenizer([next(stream) for _ in range(2000)])
    model = make_model(tokenizer, width)
    policy = Policy(model, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=steps, pct_start=0.1
    )
    for step in range(1, steps + 1):
        loss = 0.0
        batch = sorted((next(stream) for _ in range(batch_size)), key=lambda demo: len(demo.answer))
        for part in (batch[: batch_size // 2], batch[batch_size // 2 :]):  # less padding
            ids_BL, labels_BL = _collate(policy, part)
            logits_BLV = model(input_ids=ids_BL, use_cache=False).logits[:, :-1]
            part_loss = torch.nn.functional.cross_entropy(
                logits_BLV.flatten(0, 1), labels_BL[:, 1:].flatten(), reduction="sum"
            ) / sum(len(demo.answer) for demo in batch)
            part_loss.backward()
            loss += part_loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {loss:.4f}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters -> {out}")


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=TINY, help="folder to write (%(default)s)")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--habit", type=int, default=128)
    parser.add_argument("--steps", type=int, default=900, help="optimiser steps (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="rows a step (%(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (%(default)s)")
    options = parser.parse_args()
    random.seed(options.seed)
    train(
        options.out,
        width=options.width,
        habit=options.habit,
        steps=options.steps,
        batch_size=options.batch_size,
        lr=options.lr,
        seed=options.seed,
    )


if __name__ == "__main__":
    main()
