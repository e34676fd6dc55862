"""Several evaluations as one: that of the run's environment, and others by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grpo_envs.training.evaluation import Evaluation


@dataclass(slots=True)
class Evaluations:
    """Evaluates on the held-out problems, and on those of `trainer.evaluations`."""

    main: Evaluation
    others: Mapping[str, Evaluation] = field(default_factory=dict)

    @property
    def problems(self) -> int:
        """Problems of the main evaluation; 0 for no evaluation at all."""
        return self.main.problems

    def __call__(self) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Return `eval/...` metrics, `eval/<name>/...` metrics of the others, and all answers.

        The answers of another evaluation have its name as `evaluation`.

        Raises:
            ConfigError: all problems of an evaluation are too long for the model's context.
        """
        metrics, rows = self.main()
        for name, evaluation in self.others.items():
            found, answers = evaluation()
            metrics |= {key.replace("eval/", f"eval/{name}/", 1): x for key, x in found.items()}
            rows += [{"evaluation": name, **row} for row in answers]
        return metrics, rows

    def close(self) -> None:
        """Stop the graders."""
        for evaluation in (self.main, *self.others.values()):
            evaluation.close()
