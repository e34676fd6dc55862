"""A GRPO step of ours and of TRL's GRPOTrainer, in one run, taking turns.

    pip install -e ".[bench]"
    python tests/benchmarks/bench_grpo_step.py                  # all shapes; (c) takes TRL long
    python tests/benchmarks/bench_grpo_step.py --shapes a --rounds 5 --dtype bf16
    python tests/benchmarks/bench_grpo_step.py --shapes b --device cuda

Both have the same model (random weights of the shape), prompts, group size and number of threads;
beta is 0, AdamW in float32. Every completion has all its tokens (no end token is drawn); in (e)
each token ends its completion with the same chance on both sides, so that lengths differ. TRL is at
its best for this machine: its fused head (which is chunked) is on, gradient checkpointing is off,
there is no reference model, and a step is one forward and one backward. Our side keeps freed
memory, as our runs do (`grpo_envs.runtime.allocator`). Each side is a process of its own, so its
peak memory is its own (on a GPU: of the device); the first step of a process is not counted.
Medians; the speedup is that of tokens a second. At the end of each shape: how fast our update
multiplies matrices, beside the best that this machine does with large ones in the same type.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging as transformers_logging

from grpo_agent.agent import GrpoAgent
from grpo_agent.config import GrpoConfig, LossConfig
from grpo_envs.env import TextEnv
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.runtime.allocator import keep_freed_memory
from grpo_envs.runtime.timing import Timer
from grpo_envs.types import Problem, Reward
from grpo_policy.models import TINY
from grpo_policy.policy import Policy
from grpo_policy.rollout import Rollout
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import TorchSampler

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.support.ending import end_by_chance

_VOCABULARY = 49_152
_NEVER = _VOCABULARY  # an end token that no logit belongs to
_WORDS = ("sun", "moon", "rain", "snow", "wind", "tree", "fish", "bird", "road", "sea", "key")
PARTS = ("sample", "score", "update", "total")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is measured."""

    model: str
    prompts: int
    group: int
    tokens: int
    """Of each completion; at most, where completions end by chance."""
    words: int
    """Of each prompt: about as many tokens."""
    mean: int = 0
    """Tokens after which a completion ends on average, by chance; 0: none ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """In what it is measured."""

    dtype: str = "fp32"
    device: str = "cpu"
    steps: int = 2


SHAPES = {
    "a": Shape(model="qwen3-7m", prompts=4, group=8, tokens=64, words=20),
    "b": Shape(model="smollm2-135m", prompts=2, group=4, tokens=48, words=20),
    "c": Shape(model="smollm2-135m", prompts=2, group=8, tokens=32, words=490),
    "d": Shape(model="tiny", prompts=16, group=8, tokens=64, words=20),  # as the quick start's
    "e": Shape(model="qwen3-7m", prompts=4, group=8, tokens=512, words=20, mean=128),
}


def make_model(name: str) -> PreTrainedModel:
    """Return a model of the shape, with random weights; the bundled one as it is."""
    if name == "tiny":
        return Qwen3ForCausalLM.from_pretrained(TINY)
    torch.manual_seed(0)
    if name == "qwen3-7m":
        config = Qwen3Config(
            vocab_size=_VOCABULARY,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            tie_word_embeddings=True,
        )
        return Qwen3ForCausalLM(config)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=_VOCABULARY,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        )
    )


def prompt(rng: random.Random, words: int) -> str:
    """Return a prompt of so many words."""
    return " ".join(rng.choices(_WORDS, k=words))


def earned(answer: str) -> float:
    """Return what an answer earns: something that differs within a group."""
    return (len(answer) % 7) / 6


class WordsEnv(TextEnv):
    """Words to answer with anything."""

    parts = {"length": 1.0}  # noqa: RUF012 - read only

    def __init__(self, words: int) -> None:
        super().__init__("train")
        self.words = words

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Draw a prompt."""
        return Problem(prompt=prompt(rng, self.words), gold="", solution="")

    def score(self, problem: Problem, answer: str) -> Reward:
        """Look at the length."""
        return Reward(parts={"length": earned(answer)})


class Operations(TorchDispatchMode):
    """Counts multiplications and additions of matrix products, those of backward passes too."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation, and count it where it is one."""
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=out)
        elif func._overloadpacket is torch.ops.mkldnn._linear_pointwise:  # not in the registry
            self.total += 2 * args[0].numel() * out.shape[-1]
        return out


def ours(shape: Shape, how: How) -> list[dict[str, float]]:
    """Return the seconds of each step's parts; of the last one the operations of its update."""
    keep_freed_memory()  # as a run does
    low = how.dtype == "bf16"
    accelerator = Accelerator(cpu=how.device == "cpu")
    policy = Policy(make_model(shape.model), AutoTokenizer.from_pretrained(TINY))
    policy.eos_ids = (policy.tokenizer.eos_token_id if shape.mean else _NEVER,)
    if low:
        policy.compute_in(torch.bfloat16)
    cfg = GrpoConfig(group_size=shape.group, lr=1e-6, loss=LossConfig(beta=0.0))
    decoding = Decoding(max_new_tokens=shape.tokens)
    agent = GrpoAgent(policy, cfg, accelerator, decoding)
    env = GroupVectorEnv(WordsEnv(shape.words), shape.prompts * shape.group, shape.group)
    decoding = Decoding(max_new_tokens=shape.tokens)
    sampler = TorchSampler(policy)
    rollout = Rollout(env, policy.chat, sampler, decoding, 0)
    _let_end(policy.model, policy.eos_ids[0], shape)
    taken = []
    for step in range(how.steps):
        timer = Timer()
        with timer("total"):
            groups = rollout(range(step * shape.prompts, (step + 1) * shape.prompts), timer)
            with timer("update"):
                agent.update(groups)
        lengths = [c.length for group in groups for c in group.completions]
        _require_lengths(lengths, shape)
        taken.append({name: timer.seconds[name] for name in PARTS} | {"tokens": sum(lengths)})
    with Operations() as counted:  # type: ignore[no-untyped-call]
        agent.update(groups)
    taken[-1]["operations"] = float(counted.total)
    return taken


def _let_end(model: PreTrainedModel, eos_id: int, shape: Shape) -> None:
    if shape.mean:
        end_by_chance(model, eos_id, 1 / shape.mean)


def _require_lengths(lengths: Sequence[int], shape: Shape) -> None:
    """See that completions are as long as the shape says; 32 by chance are within 5 deviations."""
    mean, most = sum(lengths) / len(lengths), max(lengths)
    near = shape.mean / 8 < mean < 3 * shape.mean and len({*lengths}) > 1
    ends = near if shape.mean else min(lengths) == shape.tokens
    if not ends or most > shape.tokens:
        raise RuntimeError(f"completions of {shape} have {mean:.0f} tokens, {most} at most")


def theirs(shape: Shape, how: How) -> list[dict[str, float]]:
    """Return the seconds of each step's parts."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    taken: list[dict[str, float]] = []

    def score(completions: Any, completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths = [len(ids) for ids in completion_ids]
        _require_lengths(lengths, shape)
        trainer.tokens = sum(lengths)
        return [earned(c[0]["content"]) for c in completions]

    class Timed(GRPOTrainer):  # type: ignore[misc]
        timer = Timer()

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            with self.timer("total"):
                return super().training_step(*args, **kwargs)

        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            with self.timer("sample"):
                return super()._generate(*args, **kwargs)

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            with self.timer("score"):
                return super()._calculate_rewards(*args, **kwargs)

    rng = random.Random(0)
    rows = [{"prompt": [{"role": "user", "content": prompt(rng, shape.words)}]} for _ in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=shape.prompts * shape.group,
            num_generations=shape.group,
            max_completion_length=shape.tokens,
            generation_kwargs={} if shape.mean else {"min_new_tokens": shape.tokens},
            max_steps=how.steps,
            beta=0.0,
            learning_rate=1e-6,
            gradient_checkpointing=False,
            use_cpu=how.device == "cpu",
            bf16=how.dtype == "bf16",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = Timed(
            model=make_model(shape.model),
            reward_funcs=score,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(TINY),
        )
        _let_end(trainer.model, trainer.processing_class.eos_token_id, shape)
        _each_step(trainer, taken)
        trainer.train()
    return taken


def _each_step(trainer: Any, taken: list[dict[str, float]]) -> None:
    """Note what each step took, the optimiser's part included."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        began = 0.0

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            trainer.timer.seconds.clear()
            self.began = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            parts = dict(trainer.timer.seconds)
            parts["total"] = time.perf_counter() - self.began
            parts["update"] = parts["total"] - parts["sample"] - parts["score"]
            taken.append({name: parts[name] for name in PARTS} | {"tokens": trainer.tokens})

    trainer.add_callback(Clock())


SIDES: dict[str, Callable[[Shape, How], list[dict[str, float]]]] = {"ours": ours, "trl": theirs}


def measure(side: str, shape: str, how: How) -> dict[str, float]:
    """Run one side in a process of its own; return medians of its steps, and its peak memory."""
    command = [sys.executable, __file__, "--side", side, "--shapes", shape, "--dtype", how.dtype]
    done = subprocess.run(
        [*command, "--device", how.device, "--steps", str(how.steps)],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_side(side: str, shape: Shape, how: How) -> dict[str, float]:
    """Return medians over the steps but the first [s], and the peak memory [MiB]."""
    transformers_logging.set_verbosity_error()
    taken = SIDES[side](shape, replace(how, steps=how.steps + 1))[1:]
    result = {name: median(step[name] for step in taken) for name in PARTS}
    result["pace"] = median(step["tokens"] / step["total"] for step in taken)
    if how.device == "cuda":
        result["peak"] = torch.cuda.max_memory_allocated() / 2**20
    else:
        result["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if operations := taken[-1].get("operations"):
        result["rate"] = operations / result["update"] / 1e9
        result["best"] = matrix_rate(how)
    return result


def matrix_rate(how: How) -> float:
    """Return how fast this machine multiplies large square matrices [1e9 operations/s]."""
    dtype = torch.float32 if how.dtype == "fp32" else torch.bfloat16
    size = 2048
    left, right = (torch.randn(size, size, device=how.device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / median(seconds[2:]) / 1e9


def compare(name: str, how: How, rounds: int) -> None:
    """Print a row for each side, then the ratios."""
    shape = SHAPES[name]
    threads = f"{torch.get_num_threads()} threads" if how.device == "cpu" else "cuda"
    print(f"shape ({name}): {shape}, {how.dtype}, {threads}", flush=True)
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            runs[side].append(measure(side, name, how))
    result = {side: _medians(seen) for side, seen in runs.items()}
    for side, seen in result.items():
        parts = "  ".join(f"{part} {seen[part]:.2f} s" for part in PARTS)
        print(f"  {side:<5} {parts}  {seen['pace']:.0f} tokens/s  peak {seen['peak']:.0f} MiB")
    rate, best = result["ours"]["rate"], result["ours"]["best"]
    print(f"  our update: {rate:.0f} GFLOP/s in matrices, {rate / best:.0%} of {best:.0f}")
    speedup = result["ours"]["pace"] / result["trl"]["pace"]
    memory = result["ours"]["peak"] / result["trl"]["peak"]
    print(f"shape ({name}): speedup {speedup:.1f} memory {memory:.2f}", flush=True)


def _medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    """Read the options; measure both sides, or be one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--steps", type=int, default=2, help="steps of each that are counted")
    parser.add_argument("--side", choices=SIDES, help="be one side, once")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    how = How(dtype=options.dtype, device=options.device, steps=options.steps)
    if options.side:
        (shape,) = options.shapes
        print(json.dumps(run_side(options.side, SHAPES[shape], how)))
        return
    for shape in options.shapes:
        compare(shape, how, options.rounds)


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main()
