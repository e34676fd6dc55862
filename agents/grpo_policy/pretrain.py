"""The recipe of the bundled tiny Qwen3: `python -m grpo_policy.pretrain`.

Supervised on demonstrations that the built-in environments give of themselves
(`Problem.solution`). At first every demonstration thinks before it answers, and the model learns
to calculate. Then most of them answer at once, and the model takes up that habit without the time
to become good at it. Greedily it now answers at once and is often wrong; when it thinks it seldom
is: GRPO finds that out, and completions grow longer as it does.

What leaves no such room (measured): wrong labels in the demonstrations, and short training alone.
Run it again when a built-in environment changes its prompts. One that is added needs a cycle more:
`--earlier FOLDER --behind 5` shows only what comes after the fifth.

The file that is shipped was not made in one go: a model of the first two cycles, with a tokenizer
of its own, was taken up by `adopt` and shown the third, then the fourth, then the fifth.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

import grpo_envs
from grpo_envs.env import TextEnv
from grpo_envs.seeding import rng_for
from grpo_envs.types import Turn
from grpo_policy.models import HINTS, TINY, Hints, load_policy
from grpo_policy.policy import Policy

DIRECT_SHARE = 0.65
"""Demonstrations that answer at once, where a cycle mixes."""
BATCH_SIZE = 64
_ROWS = 16
VOCABULARY = 640
IGNORED = -100
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
    """A prompt and answers to imitate: one, or those of a conversation."""

    system_prompt: str
    prompt: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """A stretch of training over which the learning rate rises and falls once."""

    environments: tuple[str, ...]
    """They take turns; who is named twice has twice as many."""
    steps: int
    lr: float
    """Peak learning rate."""
    thinking_steps: int = 0
    """So many steps of it show thinking only; the others mix, see DIRECT_SHARE."""


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
    # Copying words, which half of env=format takes, comes late.
    Cycle(
        environments=(
            *("format", "math", "format", "code", "format", "countdown"),
            *("format", "math", "guess", "format", "code", "calculator"),
        ),
        steps=1000,
        lr=2e-3,
        thinking_steps=450,
    ),
    # And what thinking wins there, later still.
    Cycle(
        environments=(
            *("format", "math", "format", "code", "format", "countdown"),
            *("format", "math", "format", "guess", "format", "calculator"),
        ),
        steps=1500,
        lr=2e-3,
        thinking_steps=1000,
    ),
)


def demonstration(envs: Sequence[TextEnv], number: int, direct_share: float) -> Demonstration:
    """Return demonstration `number`."""
    env = envs[number % len(envs)]
    problem = env.problem(number, "train")
    direct = rng_for("pretrain", number).random() < direct_share
    turns: list[Turn] = []
    over = False
    while not over:
        answer = env.demonstrate(problem, turns)
        if direct:
            answer = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)
        over, observation = len(turns) + 1 == env.turns_of(problem), ""
        if not over:
            reply = env.respond(problem, [*turns, Turn(action=answer)])
            over, observation = reply.done, reply.observation
        turns.append(Turn(action=answer, observation=observation))
    return Demonstration(
        system_prompt=env.system_prompt_of(problem), prompt=problem.prompt, turns=tuple(turns)
    )


def make_tokenizer(demos: Sequence[Demonstration]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: any text in, the environments' words as one token each."""
    texts = [f"system\n{demo.system_prompt}\n" for demo in demos]
    for demo in demos:
        said = "".join(f"assistant\n{t.action}\nuser\n{t.observation}\n" for t in demo.turns)
        texts.append(f"user\n{demo.prompt}\n{said}")
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


def encode(policy: Policy, demo: Demonstration) -> tuple[list[int], list[int]]:
    """Return tokens and labels of a demonstration; the labels are IGNORED outside the answers."""
    tokens = list(policy.render(demo.prompt, demo.system_prompt))
    labels = [IGNORED] * len(tokens)
    for turn in demo.turns:
        answer = [*policy.tokenizer(turn.action)["input_ids"], policy.eos_ids[0]]
        last = turn is demo.turns[-1]
        reply = () if last else policy.follow_up(turn.observation, ended=True)
        tokens += [*answer, *reply]
        labels += [*answer, *[IGNORED] * len(reply)]
    return tokens, labels


def _padded(rows: Sequence[list[int]], filler: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])


def loss_of(policy: Policy, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """Return the cross-entropy of the answers in nats, summed."""
    tokens, labels = zip(*rows, strict=True)
    ids_BL, labels_BL = _padded(tokens, policy.pad_id), _padded(labels, IGNORED)
    logits_BLV = policy.model(input_ids=ids_BL, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits_BLV.flatten(0, 1), labels_BL[:, 1:].flatten(), reduction="sum"
    )


def fit(policy: Policy, envs: Mapping[str, TextEnv], cycle: Cycle, *, start: int) -> None:
    """Train through one cycle, on demonstrations number `start` and after."""
    weights = policy.parameters()
    optimizer = torch.optim.AdamW(weights, lr=cycle.lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=cycle.lr, total_steps=cycle.steps, pct_start=0.1
    )
    shown = [envs[name] for name in cycle.environments]
    for step in range(cycle.steps):
        share = 0.0 if step < cycle.thinking_steps else DIRECT_SHARE
        numbers = range(start + step * BATCH_SIZE, start + (step + 1) * BATCH_SIZE)
        demos = [demonstration(shown, number, share) for number in numbers]
        rows = sorted((encode(policy, demo) for demo in demos), key=lambda row: len(row[0]))
        characters = sum(len(turn.action) for demo in demos for turn in demo.turns)
        loss = 0.0
        for i in range(0, BATCH_SIZE, _ROWS):  # of about one length: little padding
            part = loss_of(policy, rows[i : i + _ROWS]) / characters
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0 or step + 1 == cycle.steps:
            print(f"step {step + 1}/{cycle.steps}  nats per character {loss:.4f}", flush=True)


@torch.no_grad()
def adopt(policy: Policy, folder: Path) -> None:
    """Take up the weights of an earlier model: what both call a token keeps its embedding."""
    before = load_policy(str(folder))
    state = before.model.state_dict()
    embedding_VD = policy.model.get_input_embeddings().weight
    for token, place in policy.tokenizer.get_vocab().items():
        old = before.tokenizer.get_vocab().get(token)
        if old is not None:
            embedding_VD[place] = before.model.get_input_embeddings().weight[old]
    kept = {name: w for name, w in state.items() if w.shape[0] != len(before.tokenizer)}
    policy.model.load_state_dict(kept, strict=False)


def train(
    out: Path, cycles: Sequence[Cycle], *, seed: int, earlier: Path | None = None, behind: int = 0
) -> None:
    """Make the tokenizer and the model, train it and save both in Transformers format to `out`.

    Args:
        out: Folder to write.
        cycles: What is shown, in order.
        seed: Of the weights.
        earlier: A model to go on from.
        behind: How many of the cycles it has behind it.
    """
    torch.manual_seed(seed)
    transformers_logging.disable_progress_bar()
    envs = {name: grpo_envs.make(name) for cycle in cycles for name in cycle.environments}
    widest = max(cycles, key=lambda cycle: len({*cycle.environments}))
    every = [envs[name] for name in widest.environments]
    tokenizer = make_tokenizer([demonstration(every, i, 0.0) for i in range(4000)])
    policy = Policy(make_model(tokenizer), tokenizer)
    if earlier is not None:
        adopt(policy, earlier)
    start = 0
    for number, cycle in enumerate(cycles):
        if number >= behind:
            fit(policy, envs, cycle, start=start)
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
    parser.add_argument("--seed", type=int, default=0, help="of the weights (%(default)s)")
    parser.add_argument("--earlier", type=Path, help="folder of a model to go on from")
    parser.add_argument("--behind", type=int, default=0, help="cycles that it has behind it")
    options = parser.parse_args()
    earlier, behind = options.earlier, options.behind
    train(options.out, CYCLES, seed=options.seed, earlier=earlier, behind=behind)


if __name__ == "__main__":
    main()
