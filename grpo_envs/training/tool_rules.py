"""Rules about the use of tools, over the reward components that `ToolEnv` adds to each reward."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from grpo_envs.training.rules import KNOWN
from grpo_envs.training.stretch import Stretch, Symptom

SELDOM = 0.02
"""Mean calls per episode below which tools count as never called."""
UNANSWERED = 0.1
"""Share of episodes with an answer below which there are only calls."""
MOST = 0.5
"""Share of failed (or repeated) calls at or above which a symptom is reported."""


def tools(seen: Stretch) -> Iterator[Symptom]:
    """Tools are never called, only called, called wrongly or called again with the same arguments.

    Each environment of a mixture is judged separately.
    """
    names = {name for row in seen.steps for name in row if name.startswith("reward/")}
    for name in sorted(name for name in names if name.endswith("/tool_calls")):
        where = name.removesuffix("tool_calls")
        if seen.run is None and len(seen.column(name)) < len(seen.steps):
            continue  # a mixture has just begun to draw from it
        yield from _use(seen, where)
        yield from _mistakes(seen, where)


def _use(seen: Stretch, where: str) -> Iterator[Symptom]:
    """Judge how often tools are called by an environment whose metrics begin with `where`."""
    calls, answered = _mean(seen, f"{where}tool_calls"), _mean(seen, f"{where}answered")
    main = seen.run.main_part if seen.run else None
    known = seen.run is not None and main is not None and seen.run.late(f"reward/{main}") > KNOWN
    if calls < SELDOM and not known:
        yield Symptom(
            name="never calls",
            part=where.removeprefix("reward/"),
            says="The model never calls a tool, usually because its chat template does not show "
            "them or it was never trained to call any.",
            evidence=f"{where}tool_calls is {calls:.2f} ({_over(seen, where)})",
            turn="model.path to a model that was trained with tools; a system prompt that shows a "
            "call; env.rewards={tool_calls: 0.05} for the first steps",
        )
    elif calls >= 1 and answered < UNANSWERED:
        yield Symptom(
            name="only calls",
            part=where.removeprefix("reward/"),
            says="The model calls tools until its turns are used up, and never answers.",
            evidence=f"{calls:.1f} calls per episode, {answered:.0%} of the episodes have an "
            f"answer ({_over(seen, where)})",
            turn="env.turns up, env.tool_limits={calls: 2} (a result then says that no call is "
            "left), or sampler.max_new_tokens up",
        )


def _mistakes(seen: Stretch, where: str) -> Iterator[Symptom]:
    """Judge failed and repeated calls."""
    calls, failed = _mean(seen, f"{where}tool_calls"), _mean(seen, f"{where}tool_errors")
    again = _mean(seen, f"{where}tool_repeats")
    if calls < SELDOM:
        return
    if failed >= MOST * calls:
        yield Symptom(
            name="calls fail",
            part=where.removeprefix("reward/"),
            says="Most tool calls fail: the model writes calls that the tools do not take.",
            evidence=f"{failed / calls:.0%} of the calls have an error as their result "
            f"({_over(seen, where)})",
            turn="the tool's description and types (python -m grpo_envs.play shows the errors), or "
            "env.rewards={tool_errors: -0.05}",
        )
    if again >= MOST * calls:
        yield Symptom(
            name="same call",
            part=where.removeprefix("reward/"),
            says="The model repeats the same call, whose result it has read already.",
            evidence=f"{again / calls:.0%} of the calls repeat one of their episode "
            f"({_over(seen, where)})",
            turn="env.rewards={tool_repeats: -0.05}, or env.tool_limits={calls: 2}",
        )


def _mean(seen: Stretch, name: str) -> float:
    return fmean(seen.late(name) or [0.0])


def _over(seen: Stretch, where: str) -> str:
    steps = len(seen.late(f"{where}tool_calls"))
    return f"mean of {steps} step{'s' * (steps != 1)}"
