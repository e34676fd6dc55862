"""What the quick start learns with vLLM as its sampler, and how long a push of weights takes.

    python tests/benchmarks/engines.py                          # an hour on two cores
    python tests/benchmarks/engines.py --push qwen smollm2      # seconds of a push by model size

Rows: our own sampler, with a lag of 0, 1 and 2; vLLM in float32; vLLM in bf16 under a float32
trainer, whose difference `agent.loss.correction` corrects, and the same without it. Needs vLLM: see
docs/engines.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from accelerate import Accelerator

from grpo_envs.config.composition import compose_run
from grpo_policy.models import TINY, load_policy, resolve
from grpo_policy.policy import Policy
from grpo_policy.samplers import SamplerParts
from grpo_policy.samplers.vllm.client import Server
from grpo_policy.samplers.vllm.opening import open_sampler
from grpo_policy.samplers.vllm.own import free_port
from grpo_policy.samplers.vllm.sampler import VllmSampler

SIZES = ("qwen", "smollm2")
"""Models to push: the bundled one on a CPU, and one of 135 M parameters (extra `smollm2`)."""
KINDS = ("shm", "broadcast")
_PUSHES = 10
_BF16 = ("sampler.precision=bf16",)
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "torch": ("", ()),
    "torch, lag 1": ("", ("trainer.lag=1",)),
    "torch, lag 2": ("", ("trainer.lag=2",)),
    "vLLM, fp32": ("fp32", ()),
    "vLLM, bf16": ("bf16", _BF16),
    "vLLM, bf16, not corrected": ("bf16", (*_BF16, "agent.loss.correction=none")),
}
"""The precision of the server, '' without one; and keys of the run."""


@contextmanager
def engine(dtype: str, python: str | None) -> Iterator[str]:
    """Give the address of a server of the bundled model."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    named = ["--python", python] if python else []
    command = [sys.executable, "-m", "grpo_envs.engine", "--port", str(port), "--dtype", dtype]
    process = subprocess.Popen(
        [*command, "--model", str(TINY), *named],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def check(_: float) -> None:
        if process.poll() is not None:
            raise SystemExit("the server did not start: python -m grpo_envs.engine says why")

    try:
        Server(url, 600).wait(900, check)
        yield url
    finally:
        process.terminate()
        process.wait()


def run(*overrides: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], float]:
    """Make a run; return its metrics, its evaluations and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, "-m", "grpo_envs.run", *overrides),
                *("trainer.device=cpu", "logger=files", f"hydra.run.dir={folder}/run"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - begun
        return _rows(folder, "metrics.jsonl"), _rows(folder, "eval.jsonl"), seconds


def _rows(folder: str, name: str) -> list[dict[str, Any]]:
    lines = Path(folder, "run", name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def learn(name: str, seeds: Sequence[int], python: str | None, more: Sequence[str]) -> str:
    """Return a row of the table."""
    dtype, keys = ROWS[name]
    found = []
    if not dtype:
        found = [run("env=math", "model.size=tiny", *keys, f"seed={seed}", *more) for seed in seeds]
    else:
        with engine(dtype, python) as url:
            run("env=math", "model.size=tiny", *_server(url), *keys, "trainer.steps=1")  # warm
            for seed in seeds:
                given = (*_server(url), *keys, f"seed={seed}", *more)
                found.append(run("env=math", "model.size=tiny", *given))
    accuracy = [evaluations[-1]["eval/accuracy"] for _, evaluations, _ in found]
    metrics = [row for rows, _, _ in found for row in rows]
    gap = fmean(row["policy/sample_gap"] for row in metrics)
    pushes = [row["time/push"] for row in metrics if "time/push" in row]
    push = f"{median(pushes):.2f}" if pushes else "-"
    seconds = median(seconds for _, _, seconds in found)
    each = ", ".join(f"{value:.3f}" for value in accuracy)
    return f"| {name} | {fmean(accuracy):.3f} ({each}) | {gap:.1e} | {push} | {seconds:.0f} |"


def _server(url: str) -> tuple[str, str]:
    return "sampler=vllm", f"sampler.urls=[{url}]"


def push(size: str, kinds: Sequence[str], python: str | None) -> Iterator[str]:
    """Yield a row for each `sampler.push`: the seconds with a model, whose server is started."""
    named = [f"model={size}", "sampler=vllm", "trainer.device=cpu"]
    cfg = compose_run([*named, *([f"sampler.python={python}"] if python else [])])
    accelerator = Accelerator(cpu=True)
    policy = load_policy(resolve(cfg.model, accelerator.device).path, cfg.model)
    parts = SamplerParts(policy=policy, accelerator=accelerator)
    with closing(open_sampler(cfg.sampler, parts)) as server:
        urls = [each.url for each in server.fleet.servers]
        for kind in kinds:
            with closing(open_sampler(replace(cfg.sampler, urls=urls, push=kind), parts)) as one:
                seconds = [_pushed(one, policy) for _ in range(_PUSHES + 1)][1:]
            took = (
                f"{median(seconds):.2f} | {max(seconds):.2f}"  # not the first: it loads libraries
            )
            yield f"| {size} | {policy.size / 1e6:.1f} M | `{kind}` | {took} |"


def _pushed(sampler: VllmSampler, policy: Policy) -> float:
    policy.version += 1
    sampler.sync(policy)
    metrics = sampler.metrics()
    if not metrics["sampler/servers"]:
        raise SystemExit("the server did not take the weights")
    return metrics["time/push"]


def main() -> None:
    """Print a table, or the seconds of a push."""
    parser = argparse.ArgumentParser(description="vLLM as the sampler of the quick start")
    parser.add_argument("--python", help="the interpreter that has vLLM")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--push", nargs="+", choices=SIZES, help="models to push, and no table")
    parser.add_argument("--by", nargs="+", choices=KINDS, default=KINDS, help="how to push them")
    parser.add_argument("overrides", nargs="*", help="more keys of all runs")
    options = parser.parse_args()
    if options.push:
        print("| model | parameters | `sampler.push` | median [s] | slowest [s] |")
        print("|---|---:|---|---:|---:|")
        for size in options.push:
            for row in push(size, options.by, options.python):
                print(row, flush=True)
        return
    print("| sampler | held-out accuracy (seeds) | gap | push [s] | run [s] |")
    print("|---|---:|---:|---:|---:|", flush=True)
    for name in options.rows:
        print(learn(name, options.seeds, options.python, options.overrides), flush=True)


if __name__ == "__main__":
    main()
