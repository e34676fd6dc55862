"""Why is it not learning? Looks at each step's metrics and says so, once, when it sees a reason."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from statistics import fmean

_WINDOW = 10
KL_LIMIT = 1.0
"""Nats per token; useful runs stay far below it."""
GAP_LIMIT = 0.1
"""Nats per token; about 1e-6 in float32 and 0.02 in bf16."""
_WARM_UP, _PARTS, _PART = 10, 5, 6
"""Memory may do as it likes for so many steps; then the least of so many parts is compared."""
_NOTICEABLE = 0.01
"""Of the memory that there is; about 10 MiB a step on a machine of 24 GiB."""


class Watch:
    """Remembers the last steps; `look` returns the warnings that they give rise to."""

    def __init__(self) -> None:
        self._steps: deque[Mapping[str, float]] = deque(maxlen=_WINDOW)
        self._memory: deque[float] = deque(maxlen=_WARM_UP + _PARTS * _PART)
        self._best = 0.0
        self._said: set[str] = set()

    def look(self, metrics: Mapping[str, float], ahead: float = math.inf) -> list[str]:
        """Take a step's metrics; return one line for each reason that is seen the first time.

        Args:
            metrics: By name.
            ahead: Steps that are still to come.
        """
        self._steps.append(metrics)
        found = self._not_finite() | self._leak(ahead)
        if len(self._steps) == _WINDOW:
            found |= self._flat() | self._truncated() | self._constant() | self._collapse()
            found |= self._kl() | self._gap()
        new = [text for name, text in found.items() if name not in self._said]
        self._said |= set(found)
        return new

    def _column(self, name: str) -> list[float]:
        return [step[name] for step in self._steps if name in step]

    def _not_finite(self) -> dict[str, str]:
        if not self._steps[-1].get("optim/skipped"):
            return {}
        return {
            "not finite": "The gradient was not finite (inf or nan): that update was left out, and "
            "is counted in optim/skipped. Usually the learning rate is too high, or bf16 "
            "overflows. Turn agent.lr down, or trainer.precision=fp32."
        }

    def _leak(self, ahead: float) -> dict[str, str]:
        own, left = (self._steps[-1].get(f"memory/{name}") for name in ("process", "left"))
        if own is None or left is None:
            return {}
        self._memory.append(own)
        seen = list(self._memory)[_WARM_UP:]
        if len(seen) < _PARTS * _PART:
            return {}
        least = [min(seen[i : i + _PART]) for i in range(0, len(seen), _PART)]
        rises = [after - before for before, after in pairwise(least)]
        grown, rate = least[-1] - least[0], fmean(rises) / _PART
        noticeable = grown > _NOTICEABLE * (own + left) and rate * ahead > left
        if not noticeable or min(rises) < fmean(rises) / 2:
            return {}
        return {
            "leak": f"The memory of this process grows by {rate:,.0f} MiB a step, and {left:,.0f} "
            f"MiB are left: enough for {left / rate:.0f} steps more. Usually a function of "
            "env.rewards, or the environment, keeps what it sees. A run that is killed for its "
            "memory goes on with resume=auto."
        }

    def _flat(self) -> dict[str, str]:
        if min(self._column("group/zero_std")) < 1:
            return {}
        if min(self._column("reward/invalid")) == 1:
            return {
                "invalid": f"Nothing to learn from: for {_WINDOW} steps no reward was valid. The "
                "grader fails, see the errors in completions.jsonl."
            }
        return {
            "flat": f"Nothing to learn from: for {_WINDOW} steps every group's rewards were all "
            "equal, usually because the problems are too hard or too easy for the model. Turn "
            "env.* (an easier or harder level), agent.group_size or sampler.temperature."
        }

    def _truncated(self) -> dict[str, str]:
        if min(self._column("completion/truncated")) < 1:
            return {}
        return {
            "truncated": f"Every completion of the last {_WINDOW} steps ran out of tokens, usually "
            "because the model thinks longer than it may. Turn sampler.max_new_tokens."
        }

    def _constant(self) -> dict[str, str]:
        names = [n for n in self._steps[-1] if n.startswith("reward/") and n not in _NOT_PARTS]
        values = {name: self._column(name) for name in names}
        return {
            f"constant {name}": f"{name} was {column[0]:g} in every one of the last {_WINDOW} "
            f"steps: it teaches nothing. {_WHY.get(column[0], _OTHERWISE)}"
            for name, column in values.items()
            if len(column) == _WINDOW and min(column) == max(column)
        }

    def _collapse(self) -> dict[str, str]:
        now = fmean(self._column("reward/mean"))
        self._best = max(self._best, now)
        if self._best <= 0 or now >= 0.6 * self._best:
            return {}
        return {
            "collapse": f"The reward fell from {self._best:.3f} to {now:.3f} (means of {_WINDOW} "
            "steps), usually because the learning rate is too high for this model. Turn agent.lr "
            "down, or agent.loss.beta up."
        }

    def _kl(self) -> dict[str, str]:
        kl = self._column("loss/kl")
        if not kl or fmean(kl) < KL_LIMIT:
            return {}
        return {
            "kl": f"The policy runs away from its reference: KL {fmean(kl):.2f} nats per token "
            f"(mean of {_WINDOW} steps), usually because the learning rate is too high or the "
            "penalty too weak. Turn agent.lr down, or agent.loss.beta up."
        }

    def _gap(self) -> dict[str, str]:
        gap = self._column("policy/sample_gap")
        if not gap or fmean(gap) < GAP_LIMIT:
            return {}
        return {
            "gap": "Sampling and training disagree: the log-probabilities of the same tokens "
            f"differ by {fmean(gap):.3f} (mean of {_WINDOW} steps), usually because low precision "
            "adds up over long completions. Turn sampler.precision=fp32, trainer.precision=fp32, "
            "or sampler.max_new_tokens down."
        }


_NOT_PARTS = ("reward/mean", "reward/std", "reward/invalid")
_WHY = {
    0.0: "The model never earns it: turn env.* (an easier level), env.rewards or agent.group_size.",
    1.0: "The model has learnt it and always earns it: fine, unless env.* should be harder.",
}
_OTHERWISE = "Every answer earns the same: turn env.rewards or the environment's difficulty."
