"""Do whole runs do what they promise? The quick start, and a run that goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from grpo_envs.config.composition import compose_run
from grpo_envs.runs.rows import read_jsonl
from grpo_envs.training.build import build
from grpo_envs.training.environments import make_envs
from tests.gpu.proof import Row, Scale, clock

_RUN = (
    *("model.size=tiny", "logger=files", "trainer.eval_problems=0", "agent.group_size=4"),
    *("trainer.prompts_per_step=4", "trainer.save_every=1", "agent.lr=1e-3", "trainer.steps=4"),
)


def resumes(scale: Scale) -> Iterator[Row]:
    """A run that goes on after half its steps ends with the weights of one in a piece."""
    # A GPU adds in any order unless it is told not to; the second line is cuBLAS's part of that.
    torch.use_deterministic_algorithms(scale.gpu, warn_only=True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with tempfile.TemporaryDirectory() as folder:
        tokens = f"sampler.max_new_tokens={scale.of(48, 12)}"
        straight = train(Path(folder) / "straight", tokens)
        again = train(Path(folder) / "again", tokens)
        cut = Path(folder) / "cut"
        begun = train(cut, tokens, "trainer.steps=2")
        resumed = train(cut, tokens, f"resume={cut}")
    torch.use_deterministic_algorithms(False)
    moved = off(begun, straight)
    yield Row(what="largest change of a weight in the second half", value=moved, least=1e-5)
    yield Row(what="the same run again: off by", value=off(again, straight), most=0)
    yield Row(what="the resumed run: off by", value=off(resumed, straight), most=0)


def train(out: Path, *overrides: str) -> dict[str, Tensor]:
    """Return the weights that a run ends with."""
    cfg = compose_run([*_RUN, *overrides])
    build(cfg, out, make_envs(cfg)).run()
    return load_file(out / "checkpoints" / "last" / "model.safetensors")


def off(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest difference of two models' weights."""
    return max(float((one[name] - other[name]).abs().max()) for name in one.keys() | other.keys())


def quick_start(scale: Scale) -> Iterator[Row]:
    """The README's first command, with the bundled model."""
    short = ("trainer.steps=2", "trainer.prompts_per_step=4", "trainer.eval_problems=4")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "grpo_envs.run", "env=math", "model=qwen"]
        command += [
            "model.size=tiny",
            f"hydra.run.dir={folder}/run",
            *(short if scale.small else ()),
        ]
        with clock(scale) as taken:
            subprocess.run(command, check=True)
        yield Row(what="from the command to the end", value=taken[0], unit="s")
        found = [row["eval/accuracy"] for row in read_jsonl(Path(folder) / "run" / "eval.jsonl")]
    yield Row(what="accuracy before", value=found[0])
    least = None if scale.small else found[0]
    yield Row(what="accuracy after", value=found[-1], least=least)


PARTS = {resumes: 3, quick_start: 4}
"""Minutes that each may take."""
