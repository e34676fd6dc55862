"""Rules that find what keeps a run from learning, with their limits and messages.

`grpo_envs.training.watch` applies them to the last steps of a running run, `grpo_envs.doctor` to a
whole run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean

from grpo_envs.env.calls import TOOL_PARTS
from grpo_envs.runs.record import NOT_PARTS, Record
from grpo_envs.training.stretch import Stretch, Symptom

KL_LIMIT = 1.0
"""Nats per token; useful runs stay far below it."""
GAP_LIMIT = 0.1
"""Nats per token; about 1e-6 in float32 and 0.02 in bf16."""
COLLAPSED = 0.6
"""Share of the best mean reward below which the reward has collapsed."""
INVALID = 0.01
"""In a whole run, the grader fails if a step has a larger share of invalid rewards."""
KNOWN, NEVER = 0.9, 0.1
"""A task counts as known if its main reward component is above the first value, and as never solved
if it is below the second."""
_VALUES, _EXPLAINED = "critic/value", "critic/explained_variance"
_WARM_UP, _PARTS, _PART = 10, 5, 6
"""Steps that are ignored at first; then the number of parts whose minima are compared, and steps of
a part."""
MEMORY = _WARM_UP + _PARTS * _PART
"""Number of steps that `leak` uses."""
_NOTICEABLE = 0.01
"""Share of the memory above which growth is noticeable; about 10 MiB a step on a machine with 24
GiB."""


def invalid(seen: Stretch) -> Iterator[Symptom]:
    """The grader fails: in any step of a whole run, or in all last steps of a running one."""
    shares = seen.column("reward/invalid")
    if seen.run is None:
        fails = min(shares, default=0.0) >= 1
        evidence = f"no reward was valid in {_last(shares)}; the errors are in completions.jsonl"
    else:
        worst = max(shares, default=0.0)
        fails = worst > INVALID
        errors = Counter(row["error"] for row in seen.run.completions if not row["valid"])
        most = f"; mostly {errors.most_common(1)[0][0]!r}" if errors else ""
        evidence = f"up to {worst:.0%} of a step's rewards are invalid{most}"
    if fails:
        yield Symptom(
            name="invalid rewards",
            says="The grader fails: such answers do not count as wrong, and nothing is learnt.",
            evidence=evidence,
            turn="mend the reward function or the sandbox (python -m grpo_envs.check env=..., "
            "python -m grpo_envs.sandbox)",
        )


def not_finite(seen: Stretch) -> Iterator[Symptom]:
    """Some updates had no finite gradient."""
    skipped = [row for row in seen.steps if row.get("optim/skipped")]
    if skipped and seen.run is None:
        evidence = f"optim/skipped is {skipped[-1]['optim/skipped']:g} in this step"
    elif skipped:
        first = skipped[0]["step"]
        evidence = f"{len(skipped)} of {len(seen.steps)} steps, the first is step {first}"
    else:
        return
    yield Symptom(
        name="not finite",
        says="Gradients were not finite (inf or nan), usually because the learning rate is too "
        "high or bf16 overflows; those updates were left out.",
        evidence=evidence,
        turn="agent.lr down, or trainer.precision=fp32",
    )


def truncated(seen: Stretch) -> Iterator[Symptom]:
    """Answers run out of tokens."""
    late, early = (get("completion/truncated") for get in (seen.late, seen.early))
    if _mean(late) < seen.limits.truncated:
        return
    before = f", {_mean(early):.0%} at first" if early else ""
    tokens = _mean(seen.late("completion/length"))
    yield Symptom(
        name="truncated",
        says="Most answers run out of tokens before they are complete, usually because the model "
        "thinks longer than it may.",
        evidence=f"{_mean(late):.0%} of the answers of {_last(late)} ran out of tokens{before}; "
        f"they have {tokens:.0f}",
        turn="sampler.max_new_tokens up, or agent.overlong.* to punish length",
    )


def runaway(seen: Stretch) -> Iterator[Symptom]:
    """The policy leaves its reference."""
    late, early = seen.late("loss/kl"), seen.early("loss/kl")
    if _mean(late) < KL_LIMIT:
        return
    before = f", {_mean(early):.3f} at first" if early else ""
    yield Symptom(
        name="KL runaway",
        says="The policy runs away from its reference, usually because the learning rate is too "
        "high or the penalty too weak.",
        evidence=f"KL {_mean(late):.2f} nats per token (mean of {_count(late)}){before}",
        turn="agent.lr down, or agent.loss.beta up",
    )


def collapsed(seen: Stretch) -> Iterator[Symptom]:
    """The reward had been better."""
    level = seen.level
    fallen = level.best > 0 and level.now < COLLAPSED * level.best
    if not fallen or level.best - level.now <= seen.limits.drop:
        return
    yield Symptom(
        name="collapse",
        says=f"The reward fell from {level.best:.3f} to {level.now:.3f} (means of "
        f"{_count(range(level.width))}), usually because the learning rate is too high for this "
        "model.",
        evidence=f"{level.now / level.best:.0%} of its best, which was {level.when}",
        turn="agent.lr down, or agent.loss.beta up; checkpoints/ may still have the better one",
    )


def flat(seen: Stretch) -> Iterator[Symptom]:
    """The rewards of groups are all equal; only a whole run shows why.

    A critic compares answers with values, not within a group: then the whole step is judged.
    """
    critic = bool(seen.late(_VALUES))
    equal = [float(spread == 0) for spread in seen.late("reward/std")]
    shares = equal if critic else seen.late("group/zero_std")
    if _mean(shares) < seen.limits.flat:
        return
    if _mean(seen.late("reward/invalid")) >= seen.limits.ungraded:
        return
    groups = "" if critic else "the groups of "
    evidence = f"{_mean(shares):.0%} of {groups}{_last(shares)} earn the same throughout"
    if seen.run is not None:
        yield from _flat_because(seen.run, evidence)
        return
    yield Symptom(
        name="flat",
        says="Nothing to learn from: every group's rewards were all equal, usually because the "
        "problems are too hard or too easy for the model.",
        evidence=evidence,
        turn="env.* (an easier or harder level), agent.group_size or sampler.temperature",
    )


def _flat_because(run: Record, evidence: str) -> Iterator[Symptom]:
    part = run.main_part
    if part is None:
        return
    early, late = run.early(f"reward/{part}"), run.late(f"reward/{part}")
    evidence = f"{evidence}; {part} is {late:.2f}"
    if late > KNOWN and early > KNOWN:
        yield Symptom(
            name="too easy",
            says="The model knows the task already: all answers earn the same.",
            evidence=f"{evidence}, and was {early:.2f} at first",
            turn="env.* to something harder (env.level=...), or another task",
        )
    elif late < NEVER and early < NEVER:
        yield Symptom(
            name="too hard",
            says="No answer is ever right, so there is nothing to compare.",
            evidence=f"{evidence}, and was {early:.2f} at first",
            turn="env.* to something easier (env.level=...), agent.group_size up, or a stronger "
            "model; python -m grpo_envs.play shows what is asked",
        )
    elif late <= KNOWN:
        before, now = run.early("policy/entropy"), run.late("policy/entropy")
        yield Symptom(
            name="same answers",
            says="The answers of a group are alike: nothing is tried any more.",
            evidence=f"{evidence}; entropy {before:.3f} at first, {now:.3f} nats at last",
            turn="agent.lr down, sampler.temperature or agent.loss.entropy up, "
            "agent.loss.clip_high up (agent=dapo)",
        )


def constant(seen: Stretch) -> Iterator[Symptom]:
    """A reward component has the same value in all steps, and that is not its best value."""
    weights = {} if seen.run is None else seen.run.about.get("weights", {})
    names = {name for row in seen.steps for name in row if name.startswith("reward/")}
    for name in sorted(names - NOT_PARTS):
        part, column = name.removeprefix("reward/"), seen.column(name)
        if part.rpartition("/")[2] in TOOL_PARTS:
            continue  # `tool_rules` judges them
        if len(column) < seen.limits.constant or min(column) != max(column):
            continue
        weight = float(weights.get(part, 1.0))
        if seen.run is not None and weight * column[0] == max(weight, 0.0):
            continue  # always earned, or never a cost
        why, turn = _CONSTANT.get(column[0] if weight > 0 else None, _CONSTANT[None])
        yield Symptom(
            name="constant part",
            part=part,
            says=f"{name} teaches nothing: {why}.",
            evidence=f"{name} was {column[0]:g} in every one of {_last(column)}",
            turn=turn,
        )


_CONSTANT: Mapping[float | None, tuple[str, str]] = {
    0.0: (
        "the model never earns it",
        "env.* (an easier level), env.rewards (its weight, scale or clip) or agent.group_size",
    ),
    1.0: (
        "the model has learnt it and always earns it",
        "nothing, or env.* to something harder",
    ),
    None: (
        "every answer earns the same",
        "env.rewards (its weight, scale or clip), or env.* to a level where it differs",
    ),
}


def gap(seen: Stretch) -> Iterator[Symptom]:
    """Sampling and training compute different log-probabilities with the same weights."""
    late = seen.late("policy/sample_gap")
    if _mean(late) < GAP_LIMIT or any(seen.late("policy/lag")):
        return
    yield Symptom(
        name="sampling gap",
        says="Sampling and training disagree on the probabilities of the same tokens, usually "
        "because low precision adds up over long completions.",
        evidence=f"log-probabilities differ by {_mean(late):.3f} nats per token (mean of "
        f"{_count(late)})",
        turn="sampler.precision=fp32, trainer.precision=fp32, or sampler.max_new_tokens down",
    )


def blind(seen: Stretch) -> Iterator[Symptom]:
    """A critic's values explain returns no better than a constant, in all steps."""
    shares = seen.late(_EXPLAINED)
    if len(shares) < seen.limits.constant or max(shares) > 0:
        return
    yield Symptom(
        name="blind critic",
        says="The critic's values explain nothing of the returns, so that advantages have more "
        "noise than with no critic; usually its learning rate is wrong.",
        evidence=f"{_EXPLAINED} is {_mean(shares):.2f} (mean of {_count(shares)})",
        turn="agent.critic.lr, agent.critic.clip=null, or agent=grpo",
    )


def leak(own: Sequence[float], left: float, ahead: float = math.inf) -> Iterator[Symptom]:
    """Memory grows steadily, and will be used up before the run ends.

    Args:
        own: Memory of the process after each of the last steps [MiB].
        left: Memory that is left [MiB].
        ahead: Number of steps to come.
    """
    judged = own[-MEMORY:][_WARM_UP:]
    if len(judged) < _PARTS * _PART:
        return
    least = [min(judged[i : i + _PART]) for i in range(0, len(judged), _PART)]
    rises = [after - before for before, after in pairwise(least)]
    grown, rate = least[-1] - least[0], fmean(rises) / _PART
    noticeable = grown > _NOTICEABLE * (own[-1] + left) and rate * ahead > left
    if not noticeable or min(rises) < fmean(rises) / 2:
        return
    yield Symptom(
        name="leak",
        says=f"The memory of the run's process grows by {rate:,.0f} MiB a step, and {left:,.0f} "
        f"MiB are left: enough for {left / rate:.0f} steps more.",
        evidence=f"{least[0]:,.0f} to {least[-1]:,.0f} MiB in {_last(judged)}",
        turn="env.rewards (a function of it, or the environment, usually keeps what it sees); a "
        "run that was killed for its memory continues with resume=auto",
    )


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _count(values: Sequence[float]) -> str:
    return "1 step" if len(values) == 1 else f"{len(values)} steps"


def _last(values: Sequence[float]) -> str:
    return "the last step" if len(values) == 1 else f"the last {len(values)} steps"
