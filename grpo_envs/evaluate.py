"""How good is a model? `python -m grpo_envs.evaluate env=math model.path=RUN`.

It answers held-out problems greedily and at random and prints accuracy, pass@k, rewards and their
95 % intervals, clustered by problem. `a=` and `b=` (a run, a folder, a hub id, or tiny, 0.6b, ...)
compare two models on the same problems. After an interruption, the same command continues where it
stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rich

from grpo_envs.config.composition import compose_run
from grpo_envs.config.model import SIZES
from grpo_envs.config.schema import RunConfig
from grpo_envs.env import TextEnv
from grpo_envs.env.rewards import Part
from grpo_envs.errors import ConfigError, require_training
from grpo_envs.loggers import ConsoleHandler
from grpo_envs.runs.newest import model_path
from grpo_envs.runs.rows import json_lines, read_jsonl
from grpo_envs.runtime import launch
from grpo_envs.runtime.allocator import keep_freed_memory
from grpo_envs.runtime.files import fsync, shown, write_atomically
from grpo_envs.runtime.terminal import exit_on_error, one_line
from grpo_envs.runtime.threads import wait_passively
from grpo_envs.training.environments import close_env, make_held_out
from grpo_envs.training.evaluation import (
    STRATA,
    Evaluation,
    Row,
    any_valid,
    by_problem,
    differences,
    estimates,
)
from grpo_envs.training.tables import difference_table, tables

_FREE = ("eval_every", "eval_problems")
"""Keys `trainer.eval_*` that do not change any answer."""
_OF_LOADING = ("revision", "trust_remote_code", "attention", "chat_template_kwargs")
_AT_ONCE = 256
"""Answers between two writes to the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A model's answers, and the folder that holds them."""

    name: str
    folder: Path
    rows: list[dict[str, Any]]
    weights: dict[str, float]
    """Weights of all reward components."""
    own: dict[str, Part]
    """The environment's own reward components."""
    too_long: int
    """Problems that were left out because they are too long for the model's context."""


def evaluate(cfg: RunConfig, out: Path) -> Evaluated:
    """Answer the problems that have no answer yet; return the answers to all problems.

    Args:
        cfg: The run's keys; `trainer.eval_*` control the evaluation.
        out: The folder that holds, or will hold, the folder of this model and environment.

    Raises:
        GrpoEnvsError: one line that says what to change.
    """
    env, problems = make_held_out(cfg)
    with ExitStack() as opened:
        opened.callback(close_env, env)
        if not problems:
            raise ConfigError(f"env={cfg.env['name']}: no held-out problems. Allowed: 1 or more.")
        return _evaluated(cfg, out, (env, problems))


def _evaluated(cfg: RunConfig, out: Path, held_out: tuple[TextEnv, int]) -> Evaluated:
    require_training("a model's evaluation")
    from grpo_envs.training.build import make_accelerator
    from grpo_policy.models import resolve  # torch and transformers: not for --help, nor a mistake

    env, problems = held_out
    model = resolve(cfg.model, make_accelerator(cfg.trainer).device)
    identity = _identity(cfg, model.path)
    folder = out / cfg.env["name"] / f"{_label(model.path)}-{_digest(identity)}"
    file = folder / "completions.jsonl"
    each = 1 + cfg.trainer.eval_samples
    there = by_problem(read_jsonl(file) if file.is_file() else [])
    whole = [row for rows in there.values() if len(rows) == each for row in rows]
    missing = [n for n in range(problems) if len(there.get(n, ())) != each]
    # Opened first: a missing model leaves no folder.
    with _opened(cfg, held_out) if missing else nullcontext() as evaluation:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "config.json", json.dumps(identity, indent=1))
        write_atomically(file, json_lines(whole))
        if evaluation:
            fitting = evaluation.room.among(missing)
            if not (fitting or whole):
                raise evaluation.room.no_problem()
            _answer(evaluation, fitting, file)
    rows = [row for row in read_jsonl(file) if row["problem"] < problems]
    rows.sort(key=lambda row: int(row["problem"]))  # the same order after an interruption
    return Evaluated(
        name=model.name,
        folder=folder,
        rows=rows,
        weights=dict(env.weights),
        own=env.own_parts,
        too_long=problems - len(by_problem(rows)),
    )


@contextmanager
def _opened(cfg: RunConfig, held_out: tuple[TextEnv, int]) -> Iterator[Evaluation]:
    """Load the model and its sampler; the sampler is closed at the end."""
    from grpo_envs.training.build import make_evaluation, make_sampler, open_policy
    from grpo_envs.training.precision import compute_dtype, compute_in

    policy, accelerator = open_policy(cfg, adapters=True)
    policy.model.requires_grad_(False)
    compute_in(policy, compute_dtype(cfg.trainer, accelerator.device))
    policy.to(accelerator.device)
    with (
        closing(make_sampler(cfg, policy, accelerator)) as sampler,
        closing(make_evaluation(cfg, policy, held_out, sampler)) as evaluation,
    ):
        yield evaluation


def _answer(evaluation: Evaluation, problems: Sequence[int], file: Path) -> None:
    """Append the answers to these problems to a file, in parts."""
    size = max(1, _AT_ONCE // (1 + evaluation.samples))
    parts = [problems[i : i + size] for i in range(0, len(problems), size)]
    with evaluation.shown(len(problems)):
        for part in parts:
            with file.open("a", encoding="utf-8") as opened:
                opened.write(json_lines(evaluation.answers(part)))
            fsync(file)


def _identity(cfg: RunConfig, path: str) -> dict[str, Any]:
    """Return what decides the answers: all but the number of problems, which may grow."""
    tree = asdict(cfg)
    keys = [key for key in tree["trainer"] if key.startswith("eval_") and key not in _FREE]
    keys += ["device", "precision"]
    template = cfg.model.chat_template
    # Loading the model reports a missing file.
    file = Path(template or "").expanduser()
    text = file.read_bytes() if file.is_file() else b""
    files = sorted(Path(path).iterdir()) if Path(path).is_dir() else []
    seen = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {
        "env": dict(cfg.env),
        "model": str(Path(path).resolve()) if Path(path).exists() else path,
        "files": [list(file) for file in seen],
        "chat_template": hashlib.sha256(text).hexdigest(),
        **{key: tree["model"][key] for key in _OF_LOADING},
        "sampler": {k: v for k, v in tree["sampler"].items() if k not in cfg.sampler.free_keys},
        "trainer": {key: tree["trainer"][key] for key in keys},
        "seed": cfg.seed,
    }


def _digest(identity: Any) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def _label(path: str) -> str:
    """Return a short name of a model for a folder: `2026-11-26_10-00-00`, `tiny`, `Qwen3-0.6B`."""
    parts = [part for part in Path(path).parts if part not in ("checkpoints", "last")]
    name = parts[-1] if parts else "model"
    return "".join(c if c.isalnum() or c in ".-_" else "_" for c in name)


def model_overrides(model: str) -> list[str]:
    """Return the overrides for a model that `a=` or `b=` names."""
    if model in ("qwen", "smollm2"):
        return [f"model={model}"]
    if model in SIZES and not Path(model).exists():
        return ["model=qwen", f"model.size={model}"]
    return [f"model.path={model}"]


def _run(options: argparse.Namespace) -> None:
    """Evaluate one model or two; print the tables and the path of the numbers."""
    if launch.count() > 1:
        raise ConfigError(f"{launch.count()} processes would all answer everything. Allowed: one.")
    sides = {word[0]: word[2:] for word in options.overrides if word[:2] in ("a=", "b=")}
    overrides = [word for word in options.overrides if word[:2] not in ("a=", "b=")]
    if sides and sides.keys() != {"a", "b"}:
        raise ConfigError(f"{next(iter(sides))}=... alone. Allowed: a=MODEL b=MODEL, or neither.")
    found = []
    for more in map(model_overrides, sides.values()) if sides else [[]]:
        cfg = compose_run([*overrides, *more])
        cfg.model.path = model_path(cfg.model.path)
        if options.problems is not None:
            cfg.trainer.eval_problems = options.problems
        cfg.trainer.eval_samples = options.samples
        cfg.trainer.__post_init__()  # the ranges
        found.append(evaluate(cfg, options.out))
    for side in found:
        _tell(side, options.by)
    if sides:
        _compare(*found, by=options.by)


def _tell(side: Evaluated, by: Sequence[str]) -> None:
    figures = estimates(side.rows, side.own, by)
    for table in tables(side.name, side.rows, side.weights, figures):
        rich.get_console().print(table)
    for line in _ungraded(side.rows):
        rich.get_console().print(line, style="yellow", markup=False, soft_wrap=True)
    file = side.folder / "evaluation.json"
    summary = {
        "model": side.name,
        "problems": len(by_problem(side.rows)),
        "too_long": side.too_long,
        "prompts": len({row["prompt"] for row in side.rows}),
        "estimates": {name: asdict(figure) for name, figure in figures.items()},
    }
    write_atomically(file, json.dumps(summary, indent=1))
    rich.get_console().print(f"{shown(file.resolve())}, and the answers beside it", soft_wrap=True)


def _ungraded(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line on the answers of each decoding whose grading failed."""
    for decoding in ("greedy", "sampled"):
        own = [row for row in rows if row["decoding"] == decoding]
        errors = [row["error"] for row in own if not row["valid"]]
        if errors:
            head = f"{len(errors)} of {len(own)} rewards of {decoding} answers are invalid"
            count = "count as wrong" if any_valid(own) else "nothing is known of their accuracy"
            yield f"{head}: {count} ({one_line(errors[0], 200)})"


def _compare(a: Evaluated, b: Evaluated, *, by: Sequence[str]) -> None:
    of_a, of_b = (estimates(side.rows, side.own, by) for side in (a, b))
    gains = differences(a.rows, b.rows, a.own, by)
    rich.get_console().print(difference_table((a.name, b.name), of_a, of_b, gains))
    digests = "-".join(side.folder.name.rpartition("-")[2] for side in (a, b))
    file = a.folder.parent / f"compare-{digests}.json"
    paired = {name: asdict(gain) for name, gain in gains.items()}
    write_atomically(file, json.dumps({"a": a.name, "b": b.name, "b - a": paired}, indent=1))
    rich.get_console().print(shown(file.resolve()), soft_wrap=True)


@exit_on_error("stopped; the same command continues from here.")
def main() -> None:
    """Read the options; exit 2 on a mistake in them."""
    first, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m grpo_envs.evaluate", description=f"{first} {more}"
    )
    words = "as for a run, e.g. env=math model.path=outputs/math/... ; a=MODEL b=MODEL compare two"
    parser.add_argument("overrides", nargs="*", help=words)
    parser.add_argument("--problems", type=int, help="held-out problems (trainer.eval_problems)")
    parser.add_argument(
        "--samples", type=int, default=4, help="sampled answers to each problem (%(default)s)"
    )
    parser.add_argument(
        "--by", nargs="+", default=STRATA, help="keys of the problems' meta to group the figures by"
    )
    out = Path("outputs", "evaluate")
    parser.add_argument(
        "--out", type=Path, default=out, help="folder for the answers (%(default)s)"
    )
    options = parser.parse_intermixed_args()
    wait_passively()
    keep_freed_memory()
    logger = logging.getLogger("grpo_envs")
    logger.addHandler(ConsoleHandler())
    logger.setLevel(logging.INFO)
    _run(options)


if __name__ == "__main__":
    main()
