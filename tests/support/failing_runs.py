"""Makes tests/data/runs: real runs of the bundled model, each made to fail in a way that is known.

    python tests/support/failing_runs.py tests/data/runs           # all: about ten minutes
    python tests/support/failing_runs.py tests/data/runs truncated # one

What the doctor reads is kept: all metrics, and of the completions those of the first and last step.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_envs.config.composition import compose_run
from grpo_envs.errors import RunStopped
from grpo_envs.runs.folder import RunFolder
from grpo_envs.runs.metrics import rounded
from grpo_envs.runs.rows import json_lines, read_jsonl
from grpo_envs.training.build import build
from grpo_envs.training.environments import Envs, make_envs
from grpo_envs.types import Problem, Reward

_EVERY = ["trainer.steps=40", "trainer.prompts_per_step=8", "trainer.eval_problems=60"]


@dataclass(frozen=True, kw_only=True)
class Failing:
    """A way to fail: what is set, and the name of the finding that must be the first."""

    overrides: Sequence[str]
    finding: str | None
    breaks_grader: bool = False


RUNS = {
    "healthy": Failing(overrides=["trainer.prompts_per_step=16"], finding=None),
    "too_hard": Failing(overrides=["env.level=5"], finding="too hard"),
    "too_easy": Failing(
        overrides=["model.path={healthy}", "sampler.temperature=0.3"], finding="too easy"
    ),
    "truncated": Failing(overrides=["sampler.max_new_tokens=4"], finding="truncated"),
    "constant_part": Failing(
        overrides=["env.rewards={correct: 1.0, format: 0.1, repetition: 0.5}"],
        finding="constant part",
    ),
    "runaway": Failing(overrides=["agent.lr=3e-3", "agent.loss.beta=0.0001"], finding="KL runaway"),
    "shape_only": Failing(
        overrides=[
            *("env.level=5", "sampler.temperature=2.5", "agent.lr=3e-4"),
            "env.rewards={correct: 1.0, format: 0.5}",
        ],
        finding="shape only",
    ),
    "longer": Failing(
        overrides=[
            "env.level=4",
            "agent.lr=1.5e-4",
            "env.rewards={correct: 1.0, length: {weight: 2.0, most: 0, slope: 200}}",
        ],
        finding="longer, not better",
    ),
    "invalid": Failing(overrides=[], finding="invalid rewards", breaks_grader=True),
    "not_finite": Failing(
        overrides=["agent.lr=1e8", "agent.warmup_steps=0", "agent.loss.beta=0"],
        finding="not finite",
    ),
    "same_answers": Failing(overrides=["sampler.temperature=0.05"], finding="same answers"),
    "standing_still": Failing(overrides=["agent.lr=1e-10"], finding="standing still"),
}


def make(name: str, out: Path, healthy: Path) -> None:
    """Train as `name` says and keep what is small."""
    how = RUNS[name]
    overrides = [
        word.format(healthy=healthy) if "{healthy}" in word else word for word in how.overrides
    ]
    cfg = compose_run(["model.size=tiny", "logger=files", *_EVERY, *overrides])
    envs = make_envs(cfg)
    if how.breaks_grader:
        _break(envs)
    folder = RunFolder(healthy if name == "healthy" else Path(tempfile.mkdtemp()))
    trainer = build(cfg, folder.path, envs)
    env = envs.train.env
    about = {"weights": env.weights, "own": [*env.own_parts]}
    folder.claim(cfg.identity(), overrides, about)
    try:
        metrics = trainer.run()
        folder.finish(trainer.done, metrics)
    except RunStopped as stopped:
        folder.fail(str(stopped), overrides)
    _keep(folder.path, out / name)
    if name != "healthy":
        shutil.rmtree(folder.path)


def _break(envs: Envs) -> None:
    """Let the grader's machinery fail on some answers."""
    score = envs.train.env.score_batch

    def score_or_fail(problems: Sequence[Problem], answers: Sequence[str]) -> list[Reward]:
        if any(answer.removesuffix("</answer>").endswith(("1", "3")) for answer in answers):
            raise OSError("sandbox down")
        return score(problems, answers)

    envs.train.env.score_batch = score_or_fail  # type: ignore[method-assign]


def _keep(run: Path, kept: Path) -> None:
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for name in ("metrics", "eval"):
        rows: list[dict[str, Any]] = read_jsonl(run / f"{name}.jsonl")
        small = [{"step": row.pop("step"), **rounded(row, 4)} for row in rows]
        (kept / f"{name}.jsonl").write_text(json_lines(small), encoding="utf-8")
    rows = read_jsonl(run / "completions.jsonl")
    steps = {rows[0]["step"], rows[-1]["step"]}
    ends = [row for row in rows if row["step"] in steps]
    (kept / "completions.jsonl").write_text(json_lines(ends[:16] + ends[-16:]), encoding="utf-8")
    for name in ("config.json", "done.json", "failed.json"):
        if (run / name).is_file():
            text = (run / name).read_text(encoding="utf-8")
            note = json.loads(text.replace(str(run), kept.name))
            if "config" in note:
                note["config"].pop("model.path", None)  # of the machine that it was made on
                note["overrides"] = [o for o in note["overrides"] if "model.path" not in o]
            (kept / name).write_text(json.dumps(note, indent=1), encoding="utf-8")


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    with tempfile.TemporaryDirectory() as healthy:
        for chosen in dict.fromkeys(["healthy", *names] if "too_easy" in names else names or RUNS):
            make(chosen, Path(folder), Path(healthy))
            print(chosen, flush=True)
