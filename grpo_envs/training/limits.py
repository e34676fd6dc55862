"""The best evaluation of a run, and the limits that end a run before its last step."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, Self

from grpo_envs.config.schema import TrainerConfig


@dataclass(slots=True)
class Limits:
    """Counts what the keys `trainer.target`, `patience`, `max_minutes` and `max_tokens` limit."""

    cfg: TrainerConfig
    best: float = -inf
    """The highest value of `trainer.sweep_metric` in the evaluations so far."""
    best_step: int = 0
    """The step after which the best value was found."""
    since: int = 0
    """Evaluations since the best one."""
    value: float = -inf
    """The value of the last evaluation."""
    step: int = -1
    """The step of the last evaluation; an evaluation that a resumed run repeats counts once."""
    tokens: int = 0
    """Tokens that were sampled for training."""
    seconds: float = 0.0
    """Seconds of steps and evaluations, in all sessions of the run."""
    _saved: tuple[str, ...] = field(
        default=("best", "best_step", "since", "value", "step", "tokens", "seconds"), repr=False
    )

    @classmethod
    def of(cls, cfg: TrainerConfig, state: dict[str, Any]) -> Self:
        """Return the limits of a run with a restored state; {} for a new run."""
        made = cls(cfg)
        made.load_state_dict(state)
        return made

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        cfg = self.cfg
        return cfg.target is not None or bool(cfg.patience or cfg.max_minutes or cfg.max_tokens)

    def evaluated(self, step: int, metrics: dict[str, float]) -> bool:
        """Record an evaluation; return whether it is the best so far."""
        if self.cfg.sweep_metric not in metrics or step == self.step:
            return False
        self.step, self.value = step, metrics[self.cfg.sweep_metric]
        if self.value > self.best:
            self.best, self.best_step, self.since = self.value, step, 0
            return True
        self.since += 1
        return False

    def reached(self) -> str:
        """Return the limit that ends the run, in one line; '' if there is none."""
        cfg, name = self.cfg, self.cfg.sweep_metric
        if cfg.target is not None and self.value >= cfg.target:
            return f"trainer.target={cfg.target:g}: {name} is {self.value:.4g}"
        if 0 < cfg.patience <= self.since:
            return (
                f"trainer.patience={cfg.patience}: {name} has not risen in {self.since} "
                f"evaluations; the best was {self.best:.4g} after step {self.best_step}"
            )
        if 0 < cfg.max_minutes <= self.seconds / 60:
            return f"trainer.max_minutes={cfg.max_minutes:g}: it took {self.seconds / 60:.1f}"
        if 0 < cfg.max_tokens <= self.tokens:
            return f"trainer.max_tokens={cfg.max_tokens}: {self.tokens} tokens were sampled"
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`: numbers only."""
        return {name: getattr(self, name) for name in self._saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the counts; checkpoints of the previous version have none."""
        for name in self._saved:
            setattr(self, name, state.get(name, getattr(self, name)))
