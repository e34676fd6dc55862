"""Where metrics go: the console, JSON lines, TensorBoard. One class and one entry point each."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import rich
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from grpo_envs.runs.metrics import rounded
from grpo_envs.runs.rows import completion_rows, json_lines, problem_rows, read_jsonl
from grpo_envs.runtime.files import fsync, write_atomically
from grpo_envs.runtime.terminal import one_line
from grpo_envs.types import Group

log = logging.getLogger(__name__)
_PLAIN_LINES = 20


class Logger:
    """The base class of loggers.

    A package registers a logger in the entry-point group `grpo_envs.loggers`: a class whose
    constructor takes the run's folder, its number of steps, and the number of steps already done.
    Methods that a subclass does not override do nothing.
    """

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a training step (1 is the first)."""

    def log_completions(
        self, step: int, groups: Sequence[Group], advantages: Sequence[Sequence[float]]
    ) -> None:
        """Take the groups of a step, with the advantage of each member."""

    def log_tokens(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the agent's records about single tokens, see `grpo_envs.training.agent.TermLog`."""

    def log_eval(
        self, step: int, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Take an evaluation after `step` updates (0 is before the first) and its answers."""

    def close(self) -> None:
        """Write buffered data."""


class ConsoleHandler(logging.Handler):
    """Log messages on rich's console: above the progress display, unwrapped, unstyled."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message; warnings in yellow if there are colours.

        Tracebacks are left to run.log.
        """
        record = copy(record)
        record.exc_info = record.exc_text = None
        style = "yellow" if record.levelno >= logging.WARNING else None
        rich.get_console().print(
            self.format(record), style=style, markup=False, highlight=False, soft_wrap=True
        )


class ConsoleLogger(Logger):
    """A live progress display on a terminal, about twenty plain lines elsewhere."""

    def __init__(self, run: Path, steps: int, done: int) -> None:
        self.steps, self.done = steps, done
        self._every = max(1, steps // _PLAIN_LINES)
        self._evals: list[Mapping[str, float]] = []
        self._live: Progress | None = None
        self._task = TaskID(0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the step."""
        name = "imitation" if "loss/imitation" in metrics else "kl"
        text = (
            f"reward {metrics['reward/mean']:.3f}  {name} {metrics.get(f'loss/{name}', 0.0):.4f}  "
            f"length {metrics['completion/length']:.1f}  "
            f"tokens/s {metrics['tokens/per_second']:.0f}"
        )
        if rich.get_console().is_terminal:
            self._show(step, text)
        elif step % self._every == 0 or step in (1, self.steps):
            left = metrics["time/step"] * (self.steps - step)
            log.info(
                "step %*d/%d  %s  left %s",
                len(str(self.steps)),
                step,
                self.steps,
                text,
                _clock(left),
            )

    def log_eval(
        self, step: int, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Log the accuracy; `close` shows the first and the last evaluation side by side."""
        self._evals.append(metrics)
        if "eval/accuracy" not in metrics:
            error = next((row["error"] for row in rows if row.get("error")), "")
            log.warning(
                "held-out accuracy after %d steps: unknown, as no reward is valid%s",
                *(step, f" ({one_line(error, 200)})" if error else ""),
            )
            return
        invalid = metrics.get("eval/invalid", 0.0)
        log.info(
            "held-out accuracy after %d steps: %.3f +- %.3f%s",
            *(step, metrics["eval/accuracy"], metrics["eval/ci95"]),
            f"; {invalid:.1%} of the rewards are invalid and count as wrong" if invalid else "",
        )

    def close(self) -> None:
        """End the display; compare the first evaluation with the last."""
        if self._live is not None:
            self._live.stop()
        if len(self._evals) > 1:
            rich.get_console().print(_side_by_side(self._evals[0], self._evals[-1]))

    def _show(self, step: int, text: str) -> None:
        if self._live is None:
            self._live = Progress(
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(bar_width=20),
                TextColumn("{task.description}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=rich.get_console(),
            )
            self._task = self._live.add_task("", total=self.steps, completed=self.done)
            self._live.start()
        self._live.update(self._task, completed=step, description=text)


class JsonlLogger(Logger):
    """metrics, completions, problems, eval and eval_completions, as .jsonl: an object a line."""

    def __init__(self, run: Path, steps: int, done: int) -> None:
        self._run = run
        for name in _JSONL:
            _keep_until(run / f"{name}.jsonl", done)
        if (tokens := run / "tokens.jsonl").is_file():
            _keep_until(tokens, done)
        # A run that was interrupted after its last checkpoint repeats an evaluation that has its
        # row.
        self._evaluated = {row["step"] for row in read_jsonl(run / "eval.jsonl")}
        answers = read_jsonl(run / "eval_completions.jsonl")
        whole = [row for row in answers if row["step"] in self._evaluated]
        write_atomically(run / "eval_completions.jsonl", json_lines(whole))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append to metrics.jsonl."""
        self._write("metrics", [{"step": step, **rounded(metrics)}])

    def log_completions(
        self, step: int, groups: Sequence[Group], advantages: Sequence[Sequence[float]]
    ) -> None:
        """Append to completions.jsonl and problems.jsonl."""
        earned = [round(x, 6) for members in advantages for x in members]
        rows = zip(completion_rows(groups), earned, strict=True)
        self._write("problems", [{"step": step, **row} for row in problem_rows(groups)])
        self._write("completions", [{"step": step, **row, "advantage": a} for row, a in rows])

    def log_tokens(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append to tokens.jsonl, which exists only in runs that record tokens."""
        self._write("tokens", [{"step": step, **row} for row in rows])

    def log_eval(
        self, step: int, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Append to eval.jsonl and eval_completions.jsonl."""
        if step not in self._evaluated:
            self._write("eval_completions", [{"step": step, **row} for row in rows])
            self._write("eval", [{"step": step, **rounded(metrics)}])
            self._evaluated.add(step)

    def close(self) -> None:
        """Make sure that every row is on the disk."""
        for name in _JSONL:
            fsync(self._run / f"{name}.jsonl")

    def _write(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        with (self._run / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json_lines(rows))


class TensorBoardLogger(Logger):
    """TensorBoard event files."""

    def __init__(self, run: Path, steps: int, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        # Later steps of an interrupted session are hidden.
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1 if done else 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write scalars."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def log_eval(
        self, step: int, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write scalars."""
        self.log(step, metrics)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


_JSONL = ("metrics", "completions", "problems", "eval", "eval_completions")


def _keep_until(path: Path, step: int) -> None:
    """Make the file, or remove its rows after `step`, from which an interrupted run resumes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    write_atomically(path, "".join(x for x in whole if json.loads(x)["step"] <= step))


def _side_by_side(first: Mapping[str, float], last: Mapping[str, float]) -> Table:
    table = Table("held-out, greedy", "before", "after", title=None)
    for name in dict.fromkeys([*first, *last]):
        silent = name.endswith(("/too_long", "/invalid")) and not last.get(name)
        if not (silent or name.endswith("ci95")):
            cells = [f"{row[name]:.3f}" if name in row else "-" for row in (first, last)]
            table.add_row(name.removeprefix("eval/"), *cells)
    return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
