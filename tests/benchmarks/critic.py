"""What a critic costs and what it gains: GRPO beside PPO, as Markdown tables.

    python tests/benchmarks/critic.py learn     # about an hour on two cores
    python tests/benchmarks/critic.py cost      # some minutes

`learn` trains the bundled model (0.9 M parameters) on the quick start's task. All sides have the
same model, the same number of samples and updates, and, but for the row of groups of one, the same
prompts. A learning rate is chosen for each side on a seed of its own (the critic has ten times as
much, as `agent.critic.lr=null` says); then five seeds follow. A run that is done is not repeated.

`cost` measures the update of a step of each side in a process of its own, from random weights of
each shape, on one thread. Memory is the most that all tensors take at once in a second update,
seconds are the processor's, operations are those of matrix products (backward passes included).
Sampling is the same on all sides.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from grpo_envs.types import Completion, Group, Reward

OUT = Path("multirun/critic")
SEEDS, TUNING = (1, 2, 3, 4, 5), (101,)
RATES = (1e-4, 3e-4, 1e-3)
SAMPLES = 64
"""Of a step."""
EVERY = 2
"""Steps between two evaluations."""
LORA = "model.lora.rank=16"
_STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""95 % of Student's t, by the number of seeds."""
SHOWN = (128, 256, 512, 768)
"""Samples after which accuracies are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """An agent and what it is trained with."""

    keys: tuple[str, ...]
    """Overrides of `grpo_envs.run`."""
    rates: tuple[float, ...] = RATES
    """Learning rates that are tried."""

    @property
    def ppo(self) -> bool:
        """Whether there is a critic."""
        return "agent=ppo" in self.keys

    @property
    def body(self) -> str:
        """Which body the critic has."""
        return "shared" if "agent.critic.body=shared" in self.keys else "own"

    @property
    def rank(self) -> int:
        """Rank of the adapters; 0: all weights are trained."""
        return 16 if LORA in self.keys else 0


_GROUPS = ("agent.group_size=8", "trainer.prompts_per_step=8")
_PPO, _SHARED = "agent=ppo", "agent.critic.body=shared"
_ADAPTERS = (1e-3, 3e-3, 1e-2)
SIDES = {
    "GRPO": Side(keys=("agent=grpo", *_GROUPS)),
    "PPO, own body": Side(keys=(_PPO, *_GROUPS)),
    "PPO, own body, groups of one": Side(keys=(_PPO, "trainer.prompts_per_step=64")),
    "PPO, shared body": Side(keys=(_PPO, *_GROUPS, _SHARED)),
    "GRPO, LoRA": Side(keys=("agent=grpo", *_GROUPS, LORA), rates=_ADAPTERS),
    "PPO, own body, LoRA": Side(keys=(_PPO, *_GROUPS, LORA), rates=_ADAPTERS),
    "PPO, shared body, LoRA": Side(keys=(_PPO, *_GROUPS, _SHARED, LORA), rates=_ADAPTERS),
}


# --- learning


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run of a side."""

    side: str
    lr: float
    seed: int
    steps: int

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        name = self.side.lower().replace(", ", "-").replace(" ", "_")
        return OUT / f"{name}-{self.lr:g}-{self.seed}-{self.steps}"

    def overrides(self) -> list[str]:
        """Return its keys."""
        return [
            *SIDES[self.side].keys,
            *("model.size=tiny", "agent.minibatches=4", f"agent.lr={self.lr}"),
            *(f"seed={self.seed}", f"trainer.steps={self.steps}", f"trainer.eval_every={EVERY}"),
            *("trainer.eval_problems=100", "trainer.save_every=100000", "logger.names=[jsonl]"),
        ]


def train(run: Run) -> list[float]:
    """Train unless that is done; return the held-out accuracies after each `EVERY` steps."""
    kept = run.folder / "accuracies.json"
    if not kept.exists():
        _train(run)
        rows = [json.loads(line) for line in (run.folder / "eval.jsonl").read_text().splitlines()]
        kept.write_text(json.dumps([row["eval/accuracy"] for row in rows]), encoding="utf-8")
    accuracies: list[float] = json.loads(kept.read_text(encoding="utf-8"))
    return accuracies


def _train(run: Run) -> None:
    """Train in this process; what a run that was cut off has left is written over."""
    from grpo_envs.config.composition import compose_run
    from grpo_envs.training.build import build
    from grpo_envs.training.environments import make_envs

    run.folder.mkdir(parents=True, exist_ok=True)
    for left in run.folder.glob("*.jsonl"):
        left.unlink()
    cfg = compose_run(run.overrides())
    trainer = build(cfg, run.folder, make_envs(cfg))
    trainer.run()
    if trainer.done < run.steps:
        raise RuntimeError(f"{run} was stopped after step {trainer.done}")


def tuned(side: str, seeds: Sequence[int], steps: int) -> list[Run]:
    """Return the runs of a side that decide on its learning rate."""
    return [
        Run(side=side, lr=lr, seed=seed, steps=steps) for lr in SIDES[side].rates for seed in seeds
    ]


def best(runs: Mapping[Run, list[float]]) -> float:
    """Return the learning rate with the largest mean accuracy over the whole of their runs."""
    by: dict[float, list[float]] = {}
    for run, accuracies in runs.items():
        by.setdefault(run.lr, []).append(fmean(accuracies[1:]))
    return max(by, key=lambda lr: fmean(by[lr]))


def interval(values: Sequence[float]) -> str:
    """Return a mean and half of its 95 % interval."""
    half = _STUDENT[len(values)] * stdev(values) / math.sqrt(len(values))
    return f"{fmean(values):.2f} ± {half:.2f}"


def after(accuracies: Sequence[float], samples: float) -> float:
    """Return the accuracy after so many samples, between two evaluations a straight line."""
    place = min(samples / (SAMPLES * EVERY), len(accuracies) - 1)
    low = min(int(place), len(accuracies) - 2)
    return accuracies[low] + (place - low) * (accuracies[low + 1] - accuracies[low])


def learn(options: argparse.Namespace) -> None:
    """Tune, train all seeds, print the table."""
    sides = [name for name in SIDES if not options.sides or name in options.sides]
    context = multiprocessing.get_context("spawn")
    steps = options.steps
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        tuning = [run for side in sides for run in tuned(side, TUNING, steps)]
        results = dict(zip(tuning, pool.map(train, tuning), strict=True))
        rates = {s: best({r: a for r, a in results.items() if r.side == s}) for s in sides}
        final = [
            Run(side=side, lr=rates[side], seed=seed, steps=steps)
            for seed in SEEDS[: options.seeds]
            for side in sides
        ]
        results = dict(zip(final, pool.map(train, final), strict=True))
        seconds = dict(zip(sides, pool.map(pace, sides, rates.values()), strict=True))
    print(_table(rates, results, seconds))


def _table(
    rates: Mapping[str, float], results: Mapping[Run, list[float]], seconds: Mapping[str, float]
) -> str:
    """Return accuracies by samples, and in the processor time of so many samples of the first."""
    budget = SHOWN[1] / SAMPLES * next(iter(seconds.values()))
    head = ["", "lr", *(f"after {n}" for n in SHOWN), "mean", "s/step", f"after {budget:.1f} s"]
    lines = [_row(head), _row(["---"] * len(head))]
    for side, lr in rates.items():
        curves = [curve for run, curve in results.items() if run.side == side]
        cells = [side, f"{lr:g}", *(interval([after(c, n) for c in curves]) for n in SHOWN)]
        cells += [interval([fmean(c[1:]) for c in curves]), f"{seconds[side]:.2f}"]
        samples = budget / seconds[side] * SAMPLES
        lines.append(_row([*cells, interval([after(c, samples) for c in curves])]))
    before = fmean(curve[0] for curve in results.values())
    return f"before: {before:.2f}\n\n" + "\n".join(lines)


def pace(side: str, lr: float) -> float:
    """Return the processor seconds of a step, without evaluations, on one thread."""
    from grpo_envs.config.composition import compose_run
    from grpo_envs.training.build import build
    from grpo_envs.training.environments import make_envs

    steps = 6
    run = Run(side=side, lr=lr, seed=1, steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        cfg = compose_run([*run.overrides(), "trainer.eval_problems=0", "trainer.threads=1"])
        trainer = build(cfg, Path(folder), make_envs(cfg))
        began = time.process_time()
        trainer.run()
        return (time.process_time() - began) / steps


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


# --- cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What an update is measured on."""

    model: str
    """As `bench_grpo_step` names it."""
    shown: str
    prompts: int
    group: int
    tokens: int
    """Of each completion."""


SHAPES = (
    Shape(model="tiny", shown="0.9 M, 8 x 8 x 64", prompts=8, group=8, tokens=64),
    Shape(model="qwen3-7m", shown="7 M, 4 x 8 x 64", prompts=4, group=8, tokens=64),
    Shape(model="smollm2-135m", shown="135 M, 2 x 4 x 32", prompts=2, group=4, tokens=32),
)
_PROMPT = 40
"""Tokens of a prompt."""


def measure(shape: Shape, side: Side, steps: int) -> dict[str, float]:
    """Return the peak memory [MiB], processor seconds [s] and operations of an update."""
    from grpo_policy.live_memory import LiveMemory
    from tests.benchmarks.bench_grpo_step import Operations

    live = LiveMemory()
    with live:
        update = _updater(shape, side)
        update()  # with it come the moments
        live.peak = live.now
        with Operations() as counted:  # type: ignore[no-untyped-call]
            update()
    taken = []
    for _ in range(steps):
        began = time.process_time()
        update()
        taken.append(time.process_time() - began)
    return {
        "update": median(taken),
        "peak": live.peak / 2**20,
        "operations": float(counted.total),
    }


def _updater(shape: Shape, side: Side) -> Callable[[], Any]:
    """Return a function that makes the update of a step of one side."""
    import torch
    from accelerate import Accelerator
    from transformers import AutoTokenizer, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

    from grpo_agent.agent import GrpoAgent
    from grpo_agent.config import GrpoConfig
    from grpo_envs.config.model import LoraConfig
    from grpo_envs.runtime.allocator import keep_freed_memory
    from grpo_policy.adapters import add_adapters
    from grpo_policy.models import TINY
    from grpo_policy.policy import Policy
    from grpo_policy.samplers import Decoding
    from grpo_ppo.agent import PpoAgent
    from grpo_ppo.config import CriticConfig, PpoConfig
    from tests.benchmarks.bench_grpo_step import make_model

    torch.set_num_threads(1)  # so that the seconds are the processor's, whatever else is at work
    keep_freed_memory()  # as a run does
    if shape.model == "tiny":  # not read from its file: what is allocated is counted
        model: PreTrainedModel = Qwen3ForCausalLM(Qwen3Config.from_pretrained(TINY))
    else:
        model = make_model(shape.model)
    policy = Policy(model, AutoTokenizer.from_pretrained(TINY))
    if side.rank:
        add_adapters(policy, LoraConfig(rank=side.rank), torch.float32)
    decoding, cpu = Decoding(max_new_tokens=shape.tokens), Accelerator(cpu=True)
    common: dict[str, Any] = {"group_size": shape.group, "lr": 1e-6, "minibatches": 2}
    agent: GrpoAgent | PpoAgent
    if side.ppo:
        cfg = PpoConfig(**common, critic=CriticConfig(body=side.body))
        agent = PpoAgent(policy, cfg, cpu, decoding)
    else:
        agent = GrpoAgent(policy, GrpoConfig(**common), cpu, decoding)
    groups = _groups(shape)
    return lambda: agent.update(groups)


def _groups(shape: Shape) -> list[Group]:
    """Return groups of random tokens; a reward differs within its group."""
    rng = random.Random(0)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(500) for _ in range(count))

    return [
        Group(
            key=key,
            prompt="",
            prompt_ids=draw(_PROMPT),
            completions=tuple(
                Completion(text="", token_ids=draw(shape.tokens), logprobs=(-6.0,) * shape.tokens)
                for _ in range(shape.group)
            ),
            rewards=tuple(Reward(parts={"correct": i % 2}) for i in range(shape.group)),
        )
        for key in range(shape.prompts)
    ]


def cost(options: argparse.Namespace) -> None:
    """Print a row for each model and side, with its ratio to GRPO with the same weights trained."""
    head = ["model", "", "peak [MiB]", "update [s]", "operations [1e9]"]
    print(_row(head), _row(["---", "---", *["---:"] * 3]), sep="\n", flush=True)
    for shape in SHAPES:
        beside: dict[str, float] = {}
        for name, side in SIDES.items():
            if shape.model not in options.models or "groups of one" in name:
                continue
            command = [sys.executable, __file__, "one", shape.model, name]
            done = subprocess.run(
                [*command, "--steps", str(options.steps)],
                check=True,
                capture_output=True,
                text=True,
            )
            seen: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            beside = beside if side.ppo else seen
            cells = [
                f"{seen['peak']:.0f} ({seen['peak'] / beside['peak']:.2f})",
                f"{seen['update']:.2f} ({seen['update'] / beside['update']:.2f})",
                f"{seen['operations'] / 1e9:.0f} ({seen['operations'] / beside['operations']:.2f})",
            ]
            print(_row([shape.shown, name, *cells]), flush=True)


def main() -> None:
    """Do one of the parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    models = [shape.model for shape in SHAPES]
    parts = parser.add_subparsers(dest="part", required=True)
    learning = parts.add_parser("learn")
    learning.add_argument("--steps", type=int, default=12, help="of a run (%(default)s)")
    learning.add_argument("--jobs", type=int, default=2, help="runs at once (%(default)s)")
    learning.add_argument(
        "--seeds", type=int, default=5, choices=(2, 3, 4, 5), help="(%(default)s)"
    )
    learning.add_argument("--sides", nargs="+", choices=SIDES, help="(all)")
    costing = parts.add_parser("cost")
    costing.add_argument("--models", nargs="+", choices=models, default=models)
    one = parts.add_parser("one")
    one.add_argument("model", choices=models)
    one.add_argument("side", choices=SIDES)
    for each in (costing, one):
        each.add_argument("--steps", type=int, default=2, help="that are timed (%(default)s)")
    options = parser.parse_args()
    if options.part == "one":
        (shape,) = [shape for shape in SHAPES if shape.model == options.model]
        print(json.dumps(measure(shape, SIDES[options.side], options.steps)))
        return
    {"learn": learn, "cost": cost}[options.part](options)


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main()
