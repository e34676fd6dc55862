"""What a critic costs and what it gains: GRPO beside PPO, as Markdown tables.

    python tests/benchmarks/critic.py learn     # about an hour on two cores
    python tests/benchmarks/critic.py cost      # about 12 minutes, on a machine that is quiet

`learn` trains the bundled model (0.9 M parameters) on the quick start's task. All sides have the
same model, the same number of samples and updates, and, but for the row of groups of one, the same
prompts. A learning rate is chosen for each side on a seed of its own (the critic has ten times as
much, as `agent.critic.lr=null` says); then five seeds follow. A run that is done is not repeated.

`cost` measures a step of each side in a process of its own, from random weights of each shape; each
completion has all its tokens. Memory is the peak of the process, operations are those of matrix
products in the update (backward passes included).
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

OUT = Path("multirun/critic")
SEEDS, TUNING = (1, 2, 3, 4, 5), (101,)
RATES = (1e-4, 3e-4, 1e-3)
SAMPLES = 64
"""Of a step."""
EVERY = 2
"""Steps between two evaluations."""
LORA = "model.lora.rank=16"
_STUDENT = 2.776
"""95 % of Student's t with four degrees of freedom: five seeds."""
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
    build(cfg, run.folder, make_envs(cfg)).run()


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
    half = _STUDENT * stdev(values) / math.sqrt(len(values)) if len(values) == len(SEEDS) else 0.0
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
            for seed in SEEDS
            for side in sides
        ]
        results = dict(zip(final, pool.map(train, final), strict=True))
    seconds = json.loads(options.seconds.read_text()) if options.seconds.exists() else {}
    print(_table(sides, rates, results, seconds))


def _table(
    sides: Sequence[str],
    rates: Mapping[str, float],
    results: Mapping[Run, list[float]],
    seconds: Mapping[str, float],
) -> str:
    """Return accuracies by samples; by seconds, too, where a quiet step's are known."""
    budget = SHOWN[1] / SAMPLES * seconds["GRPO"] if seconds else 0.0
    timed = ["s/step", f"after {budget:.1f} s"] if seconds else []
    head = ["", "lr", *(f"after {n} samples" for n in SHOWN), "mean", *timed]
    lines = [_row(head), _row(["---"] * len(head))]
    for side in sides:
        runs = [accuracies for run, accuracies in results.items() if run.side == side]
        shown = [interval([after(run, n) for run in runs]) for n in SHOWN]
        cells = [side, f"{rates[side]:g}", *shown, interval([fmean(run[1:]) for run in runs])]
        if seconds:
            at = budget / seconds[side] * SAMPLES
            cells += [f"{seconds[side]:.2f}", interval([after(run, at) for run in runs])]
        lines.append(_row(cells))
    before = fmean(run[0] for run in results.values())
    return f"before: {before:.2f}\n\n" + "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def pace(options: argparse.Namespace) -> None:
    """Measure the seconds of a step of `learn` on a quiet machine, the median of seven."""
    found = {}
    for name, side in SIDES.items():
        run = Run(side=name, lr=side.rates[0], seed=1, steps=8)
        _train(run)
        rows = [json.loads(row) for row in (run.folder / "metrics.jsonl").read_text().splitlines()]
        found[name] = median(row["time/step"] for row in rows[1:])
        print(f"{name}: {found[name]:.2f} s a step", flush=True)
    options.seconds.parent.mkdir(parents=True, exist_ok=True)
    options.seconds.write_text(json.dumps(found), encoding="utf-8")


# --- cost


def measure(model: str, side: Side, steps: int) -> dict[str, float]:
    """Return the peak memory [MiB], seconds [s] and operations of a step of one side."""
    from tests.benchmarks.bench_grpo_step import Operations, Shape

    shapes = {
        "tiny": Shape(model="tiny", prompts=8, group=8, tokens=64, words=20),
        "qwen3-7m": Shape(model="qwen3-7m", prompts=4, group=8, tokens=64, words=20),
        "smollm2-135m": Shape(model="smollm2-135m", prompts=2, group=4, tokens=48, words=20),
    }
    step = _stepper(shapes[model], side)
    with Operations() as counted:  # type: ignore[no-untyped-call]
        first = step(0)
    taken = [step(number) for number in range(1, steps + 1)]
    return {
        "sample": median(t["sample"] for t in taken),
        "update": median(t["update"] for t in taken),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "operations": counted.total - first["sampling"],
    }


def _stepper(shape: Any, side: Side) -> Any:
    """Return a function that makes one step and returns its seconds."""
    import torch
    from accelerate import Accelerator
    from transformers import AutoTokenizer

    from grpo_agent.agent import GrpoAgent
    from grpo_agent.config import GrpoConfig
    from grpo_envs.config.model import LoraConfig
    from grpo_envs.env.vector import GroupVectorEnv
    from grpo_envs.runtime.allocator import keep_freed_memory
    from grpo_envs.runtime.timing import Timer
    from grpo_policy.adapters import add_adapters
    from grpo_policy.models import TINY
    from grpo_policy.policy import Policy
    from grpo_policy.rollout import Rollout
    from grpo_policy.samplers import Decoding
    from grpo_policy.samplers.torch import TorchSampler
    from grpo_ppo.agent import PpoAgent
    from grpo_ppo.config import CriticConfig, PpoConfig
    from tests.benchmarks.bench_grpo_step import _NEVER, WordsEnv, make_model

    keep_freed_memory()  # as a run does
    policy = Policy(make_model(shape.model), AutoTokenizer.from_pretrained(TINY))
    policy.eos_ids = (_NEVER,)
    if side.rank:
        add_adapters(policy, LoraConfig(rank=side.rank), torch.float32)
    decoding = Decoding(max_new_tokens=shape.tokens)
    common: dict[str, Any] = {"group_size": shape.group, "lr": 1e-6, "minibatches": 2}
    agent: Any = None
    if side.ppo:
        ppo = PpoConfig(**common, critic=CriticConfig(body=side.body))
        agent = PpoAgent(policy, ppo, Accelerator(cpu=True), decoding)
    else:
        agent = GrpoAgent(policy, GrpoConfig(**common), Accelerator(cpu=True), decoding)
    env = GroupVectorEnv(WordsEnv(shape.words), shape.prompts * shape.group, shape.group)
    rollout = Rollout(env, policy.chat, TorchSampler(policy), decoding, 0)

    def step(number: int) -> dict[str, float]:
        from torch.utils._python_dispatch import _get_current_dispatch_mode

        timer = Timer()
        groups = rollout(range(number * shape.prompts, (number + 1) * shape.prompts), timer)
        mode: Any = _get_current_dispatch_mode()
        sampling = 0 if mode is None else mode.total
        with timer("update"):
            agent.update(groups)
        return {**timer.seconds, "sampling": sampling}

    return step


NAMES = {
    "tiny": "0.9 M, 8 x 8 x 64 tokens",
    "qwen3-7m": "7 M, 4 x 8 x 64",
    "smollm2-135m": "135 M, 2 x 4 x 48",
}


def cost(options: argparse.Namespace) -> None:
    """Print the table of each model, and each side's ratio to GRPO with the same weights."""
    for model in options.models:
        head = ["model", "", "peak [MiB]", "update [s]", "operations [1e9]", "step [s]"]
        print(_row(head), _row(["---", "---", *["---:"] * 4]), sep="\n")
        beside: dict[str, float] = {}
        for name, side in SIDES.items():
            if "groups of one" in name:
                continue
            command = [sys.executable, __file__, "one", model, name, "--steps", str(options.steps)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            seen = json.loads(done.stdout.splitlines()[-1])
            seen["step"] = seen["sample"] + seen["update"]
            beside = beside if side.ppo else seen
            cells = [
                f"{seen['peak']:.0f} ({seen['peak'] / beside['peak']:.2f})",
                f"{seen['update']:.2f} ({seen['update'] / beside['update']:.2f})",
                f"{seen['operations'] / 1e9:.0f} ({seen['operations'] / beside['operations']:.2f})",
                f"{seen['step']:.2f} ({seen['step'] / beside['step']:.2f})",
            ]
            print(_row([NAMES[model], name, *cells]), flush=True)
        print(flush=True)


def main() -> None:
    """Do one of the parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    learning = parts.add_parser("learn")
    learning.add_argument("--steps", type=int, default=12, help="of a run (%(default)s)")
    learning.add_argument("--jobs", type=int, default=2, help="runs at once (%(default)s)")
    learning.add_argument("--sides", nargs="+", choices=SIDES, help="(all)")
    pacing = parts.add_parser("pace")
    for each in (learning, pacing):
        each.add_argument("--seconds", type=Path, default=OUT / "pace.json", help="%(default)s")
    costing = parts.add_parser("cost")
    costing.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    one = parts.add_parser("one")
    one.add_argument("model", choices=NAMES)
    one.add_argument("side", choices=SIDES)
    for each in (costing, one):
        each.add_argument("--steps", type=int, default=2, help="that are timed (%(default)s)")
    options = parser.parse_args()
    if options.part == "one":
        print(json.dumps(measure(options.model, SIDES[options.side], options.steps)))
        return
    {"learn": learn, "pace": pace, "cost": cost}[options.part](options)


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main()
