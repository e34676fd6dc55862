"""Why is a run not learning? Checks the metrics of each step, and warns once for each reason."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import fmean

from grpo_envs.training import rules
from grpo_envs.training.stretch import WINDOW, Level, Stretch, Symptom
from grpo_envs.training.tool_rules import tools

STEPS = 10
"""Number of steps that most rules use."""


class Watch:
    """Keeps the metrics of the last steps; `look` returns warnings about them."""

    def __init__(self, *, samples: bool = True) -> None:
        """Start without steps.

        Args:
            samples: Whether the agent learns from samples; only then rules about rewards apply.
        """
        self._samples = samples
        self._steps: deque[Mapping[str, float]] = deque(maxlen=STEPS)
        self._memory: deque[float] = deque(maxlen=rules.MEMORY)
        self._best, self._since = 0.0, 0
        self._said: set[tuple[str, str]] = set()

    def look(self, metrics: Mapping[str, float], ahead: float = math.inf) -> list[str]:
        """Add the metrics of a step; return one line for each new reason.

        Args:
            metrics: Metrics by name.
            ahead: Number of steps to come.
        """
        self._steps.append(metrics)
        found = [*rules.not_finite(Stretch(steps=[metrics], limits=WINDOW))]
        found += self._leak(metrics, ahead)
        if self._samples and len(self._steps) == STEPS:
            found += self._in_the_window()
        new = [symptom for symptom in found if (symptom.name, symptom.part) not in self._said]
        self._said |= {(symptom.name, symptom.part) for symptom in found}
        return [f"{x.says} Seen: {x.evidence}. Turn: {x.turn}." for x in new]

    def _leak(self, metrics: Mapping[str, float], ahead: float) -> list[Symptom]:
        own, left = (metrics.get(f"memory/{name}") for name in ("process", "left"))
        if own is None or left is None:
            return []
        self._memory.append(own)
        return [*rules.leak([*self._memory], left, ahead)]

    def _in_the_window(self) -> list[Symptom]:
        now = fmean(step["reward/mean"] for step in self._steps)
        self._best, self._since = (now, 0) if now > self._best else (self._best, self._since + 1)
        when = f"{self._since} steps before"
        level = Level(best=self._best, now=now, when=when, width=STEPS)
        seen = Stretch(steps=[*self._steps], limits=WINDOW, level=level)
        return [
            *(*rules.invalid(seen), *rules.truncated(seen), *rules.runaway(seen)),
            *(*rules.collapsed(seen), *rules.flat(seen), *rules.constant(seen), *rules.gap(seen)),
            *tools(seen),
            *rules.blind(seen),
        ]
