"""A logger: a line a step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grpo_envs.types import Group


class LinesLogger:
    """Writes lines.txt into the run's folder."""

    def __init__(self, run: Path, steps: int, done: int) -> None:
        self._file = (run / "lines.txt").open("a", encoding="utf-8")
        self._steps = steps

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the reward."""
        self._file.write(f"{step}/{self._steps} reward {metrics['reward/mean']:.2f}\n")

    def log_completions(
        self, step: int, groups: Sequence[Group], advantages: Sequence[Sequence[float]]
    ) -> None:
        """Write how many there were."""
        count = sum(len(group.completions) for group in groups)
        self._file.write(f"{step}/{self._steps} completions {count}\n")

    def log_eval(
        self, step: int, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write the accuracy."""
        self._file.write(f"after {step} accuracy {metrics['eval/accuracy']:.2f}\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
