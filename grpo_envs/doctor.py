"""Why is it not learning? `python -m grpo_envs.doctor RUN` reads a run and says what it sees.

Each finding has its evidence and the key to turn. While a run goes on, `grpo_envs.training.watch`
warns of what a window of ten steps shows; this looks at the whole of it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import rich
from rich.markup import escape

from grpo_envs.errors import GrpoEnvsError
from grpo_envs.runs.record import Record, read_record
from grpo_envs.runtime.files import shown
from grpo_envs.training.watch import GAP_LIMIT, KL_LIMIT

_MOST_FLAT = 0.9
"""Share of flat groups from which on hardly anything is learnt."""
_RISE = 0.1
"""Of a reward part: more than the noise of a quarter of a short run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that keeps a run from learning what it should."""

    name: str
    """One word or two, for tests and tables."""
    says: str
    """What is wrong, in plain words."""
    evidence: str
    """The numbers that show it."""
    turn: str
    """The keys to turn."""


def diagnose(run: Record) -> list[Finding]:
    """Return what is wrong with a run, the gravest first; [] where nothing is seen."""
    if not run.steps:
        return [
            Finding(
                name="no steps",
                says="The run has not finished its first step.",
                evidence=f"metrics.jsonl is empty; the run is {run.state}",
                turn="read run.log; trainer.prompts_per_step=1 shows whether it moves at all",
            )
        ]
    return [finding for check in _CHECKS for finding in check(run)]


def _invalid(run: Record) -> Iterator[Finding]:
    invalid = run.column("reward/invalid")
    worst = max(invalid)
    if worst > 0.01:
        errors = Counter(row["error"] for row in run.completions if not row["valid"])
        told = f"; mostly {errors.most_common(1)[0][0]!r}" if errors else ""
        yield Finding(
            name="invalid rewards",
            says="The grader fails: such answers teach nothing, and are no wrong answers.",
            evidence=f"up to {worst:.0%} of a step's rewards are invalid{told}",
            turn="mend the reward function or the sandbox (python -m grpo_envs.check env=..., "
            "python -m grpo_envs.sandbox)",
        )


def _not_finite(run: Record) -> Iterator[Finding]:
    skipped = [row["step"] for row in run.steps if row.get("optim/skipped")]
    if skipped:
        yield Finding(
            name="not finite",
            says="Gradients were not finite (inf or nan); those updates were left out.",
            evidence=f"{len(skipped)} of {len(run.steps)} steps, the first is step {skipped[0]}",
            turn="agent.lr down, or trainer.precision=fp32",
        )


def _runaway(run: Record) -> Iterator[Finding]:
    kl = run.late("loss/kl")
    if kl >= KL_LIMIT:
        yield Finding(
            name="KL runaway",
            says="The policy runs away from its reference.",
            evidence=f"KL {run.early('loss/kl'):.3f} at first, {kl:.2f} nats per token at last",
            turn="agent.lr down, or agent.loss.beta up",
        )


def _collapsed(run: Record) -> Iterator[Finding]:
    rewards = run.column("reward/mean")
    window = max(1, len(rewards) // 8)
    means = [sum(rewards[i : i + window]) / window for i in range(len(rewards) - window + 1)]
    best = max(means)
    if best > 0 and means[-1] < 0.6 * best and best - means[-1] > 0.1:
        at = run.steps[means.index(best)]["step"]
        yield Finding(
            name="collapse",
            says="The reward fell again after it had been better.",
            evidence=f"{best:.3f} around step {at}, {means[-1]:.3f} at last",
            turn="agent.lr down, or agent.loss.beta up; checkpoints/ may still have the better one",
        )


def _truncated(run: Record) -> Iterator[Finding]:
    cut = run.late("completion/truncated")
    if cut >= 0.5:
        yield Finding(
            name="truncated",
            says="Most answers run out of tokens before they are complete.",
            evidence=f"{cut:.0%} of the answers at last, {run.early('completion/truncated'):.0%} "
            f"at first; they have {run.late('completion/length'):.0f} tokens",
            turn="sampler.max_new_tokens up, or agent.overlong.* to punish length",
        )


def _flat(run: Record) -> Iterator[Finding]:
    flat, part = run.late("group/zero_std"), run.main_part
    if flat < _MOST_FLAT or part is None or run.late("reward/invalid") > 0.5:
        return
    early, late = run.early(f"reward/{part}"), run.late(f"reward/{part}")
    told = f"{flat:.0%} of the groups earn the same throughout; {part} is {late:.2f}"
    if late > 0.9 and early > 0.9:
        yield Finding(
            name="too easy",
            says="The model knows the task already: all answers earn the same.",
            evidence=f"{told}, and was {early:.2f} at first",
            turn="env.* to something harder (env.level=...), or another task",
        )
    elif late < 0.1 and early < 0.1:
        yield Finding(
            name="too hard",
            says="No answer is ever right, so there is nothing to compare.",
            evidence=f"{told}, and was {early:.2f} at first",
            turn="env.* to something easier (env.level=...), agent.group_size up, or a stronger "
            "model; python -m grpo_envs.play shows what is asked",
        )
    elif late <= 0.9:
        yield Finding(
            name="same answers",
            says="The answers of a group are alike: nothing is tried any more.",
            evidence=f"{told}; entropy {run.early('policy/entropy'):.3f} at first, "
            f"{run.late('policy/entropy'):.3f} nats at last",
            turn="agent.lr down, sampler.temperature or agent.loss.entropy up, "
            "agent.loss.clip_high up (agent=dapo)",
        )


def _constant(run: Record) -> Iterator[Finding]:
    for part in run.parts:
        column = run.column(f"reward/{part}")
        weight = float(run.about.get("weights", {}).get(part, 1.0))
        fine = weight * column[0] == max(weight, 0.0)  # always earned, or never punished
        if len(column) < 5 or min(column) != max(column) or fine:
            continue
        often = {0.0: "is never earned", 1.0: "is always there"}.get(column[0], "never changes")
        yield Finding(
            name="constant part",
            says=f"The reward part {part} {often}: it teaches nothing.",
            evidence=f"reward/{part} is {column[0]:g} in every one of {len(column)} steps",
            turn="env.rewards (its weight, scale or clip), or env.* to a level where it differs",
        )


def _shape_only(run: Record) -> Iterator[Finding]:
    main = run.main_part
    if main is None or run.late(f"reward/{main}") - run.early(f"reward/{main}") > _RISE / 2:
        return
    right = run.late(f"reward/{main}")
    for part in run.parts:
        early, late = run.early(f"reward/{part}"), run.late(f"reward/{part}")
        weight = float(run.about.get("weights", {}).get(part, 1.0))
        if part != main and weight > 0 and late - early > _RISE and right < 0.5:
            yield Finding(
                name="shape only",
                says=f"It learns {part}, and not {main}: the easier part is enough for a reward.",
                evidence=f"{part} {early:.2f} to {late:.2f}, {main} "
                f"{run.early(f'reward/{main}'):.2f} to {right:.2f}",
                turn=f"env.rewards={{{part}: less}}, or env.* to something that it can get right",
            )


def _longer(run: Record) -> Iterator[Finding]:
    early, late = run.early("completion/length"), run.late("completion/length")
    main = run.main_part
    if main is None or late < 1.4 * early or late - early < 4:
        return
    gain = run.late(f"reward/{main}") - run.early(f"reward/{main}")
    if gain < 0.05:
        yield Finding(
            name="longer, not better",
            says="Answers grow without being right more often: length itself pays, or nothing "
            "holds it back.",
            evidence=f"{early:.1f} to {late:.1f} tokens, {main} {gain:+.2f}, reward "
            f"{run.early('reward/mean'):.2f} to {run.late('reward/mean'):.2f}",
            turn="env.rewards (is a part paid by length?), agent.overlong.*, agent=dr_grpo",
        )


def _held_out(run: Record) -> Iterator[Finding]:
    if len(run.evals) < 2:
        return
    first, last = run.evals[0], run.evals[-1]
    gain = last["eval/accuracy"] - first["eval/accuracy"]
    earned = run.late("reward/mean") - run.early("reward/mean")
    noise = (first["eval/ci95"] ** 2 + last["eval/ci95"] ** 2) ** 0.5
    if gain < -noise and earned > 0.05:
        yield Finding(
            name="reward without accuracy",
            says="The reward rises and held-out accuracy falls: something else than the task pays.",
            evidence=f"reward {earned:+.2f}, held-out accuracy {first['eval/accuracy']:.2f} to "
            f"{last['eval/accuracy']:.2f} (+- {last['eval/ci95']:.2f})",
            turn="env.rewards; read answers of high reward in report.html",
        )


def _still(run: Record) -> Iterator[Finding]:
    earned = run.late("reward/mean") - run.early("reward/mean")
    moved = run.late("loss/kl") if run.column("loss/kl") else None
    flat = run.late("group/zero_std") >= _MOST_FLAT
    if flat or len(run.steps) < 20 or abs(earned) > 0.02 or moved is None or moved > 1e-4:
        return
    yield Finding(
        name="standing still",
        says="The policy hardly moves, though there is something to learn.",
        evidence=f"KL {moved:.1e} nats per token after {len(run.steps)} steps, learning rate "
        f"{run.late('optim/lr'):.1e}, reward {earned:+.3f}",
        turn="agent.lr up, agent.loss.beta down, or more trainer.steps",
    )


def _gap(run: Record) -> Iterator[Finding]:
    gap = run.late("policy/sample_gap")
    if gap >= GAP_LIMIT:
        yield Finding(
            name="sampling gap",
            says="Sampling and training disagree on the probabilities of the same tokens.",
            evidence=f"{gap:.3f} nats per token at last",
            turn="sampler.precision=fp32, trainer.precision=fp32, or sampler.max_new_tokens down",
        )


_CHECKS: tuple[Callable[[Record], Iterator[Finding]], ...] = (
    *(_invalid, _not_finite, _truncated, _runaway, _collapsed, _flat, _longer),
    *(_shape_only, _held_out, _constant, _still, _gap),
)


def _print(run: Record) -> bool:
    """Say what was found; return whether there was anything."""
    console = rich.get_console()
    first, last = run.early("reward/mean"), run.late("reward/mean")
    told = f"reward {first:.3f} at first, {last:.3f} at last" if run.steps else "nothing logged"
    head = f"{shown(run.path.resolve())}: {run.state}, {len(run.steps)} steps, {told}"
    console.print(escape(head), soft_wrap=True, highlight=False)
    found = diagnose(run)
    for number, finding in enumerate(found, 1):
        console.print(f"\n{number}. [bold]{escape(finding.says)}[/bold]", highlight=False)
        console.print(f"   seen: {escape(finding.evidence)}", highlight=False)
        console.print(f"   turn: {escape(finding.turn)}", highlight=False)
    if not found:
        console.print("\nNothing is wrong with it that can be seen from here.")
    return bool(found)


def main() -> None:
    """Read the options; exit 1 where something was found, 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m grpo_envs.doctor", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("run", type=Path, help="folder of a run, finished or not")
    options = parser.parse_args()
    try:
        run = read_record(options.run)
    except GrpoEnvsError as error:
        print(f"grpo_envs: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(1 if _print(run) else 0)


if __name__ == "__main__":
    main()
