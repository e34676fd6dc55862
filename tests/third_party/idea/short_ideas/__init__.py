"""An idea: advantages relative to the mean, a clip that narrows, and short right answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpo_envs import Problem, grouped

if TYPE_CHECKING:
    from torch import Tensor

    from grpo_agent.advantages import Scores


def relative(scores: Scores, *, floor: float = 0.1) -> Tensor:
    """Return (r - mean) / mean, the mean at least `floor`: a rare success counts more."""
    mean_P1 = scores.rewards_PG.mean(dim=1, keepdim=True)
    return (scores.rewards_PG - mean_P1) / mean_P1.clamp(min=floor)


@grouped
def shortest(problem: Problem, completions: list[str], right: list[bool]) -> list[float]:
    """Return 1 for the shortest right answers of the group."""
    lengths = [len(text) if ok else None for text, ok in zip(completions, right, strict=True)]
    least = min((length for length in lengths if length is not None), default=None)
    return [float(length is not None and length == least) for length in lengths]
