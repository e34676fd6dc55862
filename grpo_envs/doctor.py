"""Why is it not learning? `python -m grpo_envs.doctor RUN` reads a run and names likely causes.

Each symptom comes with its evidence and the key to change. During a run, `grpo_envs.training.watch`
applies the same rules to the last ten steps. The rules that need a whole run are here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import rich
from rich.markup import escape

from grpo_envs.runs.newest import run_at
from grpo_envs.runs.record import Record, read_record
from grpo_envs.runtime.files import shown
from grpo_envs.runtime.terminal import exit_on_error
from grpo_envs.training import rules
from grpo_envs.training.stretch import WHOLE, Symptom, whole
from grpo_envs.training.tool_rules import tools

_RISE = 0.1
"""Rise of a reward component that is more than the noise of a quarter of a short run."""
_LEARNT = 0.5
"""Value of the main reward component from which on the task counts as being learnt."""
_TIMES, _TOKENS, _BETTER = 1.4, 4.0, 0.05
"""Answers that grow by this factor and by so many tokens; the gain of the main part that justifies
it."""
_EARNED = 0.05
"""Rise of the mean reward that is more than its noise."""
_STEPS, _EVEN, _MOVED = 20, 0.02, 1e-4
"""A policy stands still if after so many steps its reward and its KL moved by no more than this."""


def diagnose(run: Record) -> list[Symptom]:
    """Return the symptoms of a run, the gravest first; [] if there are none."""
    if not run.steps:
        return [
            Symptom(
                name="no steps",
                says="The run has not finished its first step.",
                evidence=f"metrics.jsonl is empty; the run is {run.state}",
                turn="read run.log; trainer.prompts_per_step=1 shows whether it progresses",
            )
        ]
    seen = whole(run)
    if run.column("loss/imitation"):  # nothing was sampled: rewards are of demonstrations
        return [*rules.invalid(seen), *rules.not_finite(seen), *_leak(run)]
    return [
        *(*rules.invalid(seen), *rules.not_finite(seen), *_leak(run)),
        *(*rules.truncated(seen), *rules.runaway(seen), *rules.collapsed(seen)),
        *(*rules.flat(seen), *_longer(run), *_shape_only(run), *_held_out(run)),
        *(*tools(seen), *rules.constant(seen), *_still(run), *rules.gap(seen)),
        *rules.blind(seen),
    ]


def _leak(run: Record) -> Iterator[Symptom]:
    own, left = (run.column(f"memory/{name}") for name in ("process", "left"))
    ahead = int(run.config.get("trainer.steps", 0)) - int(run.steps[-1]["step"])
    if own and left:
        yield from rules.leak(own, left[-1], ahead)


def _longer(run: Record) -> Iterator[Symptom]:
    early, late = run.early("completion/length"), run.late("completion/length")
    main = run.main_part
    if main is None or late < _TIMES * early or late - early < _TOKENS:
        return
    gain = run.late(f"reward/{main}") - run.early(f"reward/{main}")
    if gain < _BETTER:
        yield Symptom(
            name="longer, not better",
            says="Answers become longer, but are not right more often: length is rewarded, or "
            "nothing limits it.",
            evidence=f"{early:.1f} to {late:.1f} tokens, {main} {gain:+.2f}, reward "
            f"{run.early('reward/mean'):.2f} to {run.late('reward/mean'):.2f}",
            turn="env.rewards (does a component reward length?), agent.overlong.*, agent=dr_grpo",
        )


def _shape_only(run: Record) -> Iterator[Symptom]:
    main = run.main_part
    if main is None or run.late(f"reward/{main}") - run.early(f"reward/{main}") > _RISE / 2:
        return
    right = run.late(f"reward/{main}")
    for part in run.parts:
        early, late = run.early(f"reward/{part}"), run.late(f"reward/{part}")
        weight = float(run.about.get("weights", {}).get(part, 1.0))
        if part != main and weight > 0 and late - early > _RISE and right < _LEARNT:
            yield Symptom(
                name="shape only",
                says=f"It learns {part}, but not {main}: the easier part alone earns a reward.",
                evidence=f"{part} {early:.2f} to {late:.2f}, {main} "
                f"{run.early(f'reward/{main}'):.2f} to {right:.2f}",
                turn=f"env.rewards={{{part}: less}}, or env.* to easier problems",
            )


def _held_out(run: Record) -> Iterator[Symptom]:
    known = [row for row in run.evals if "eval/accuracy" in row]
    if len(known) < 2:
        return
    first, last = known[0], known[-1]
    gain = last["eval/accuracy"] - first["eval/accuracy"]
    earned = run.late("reward/mean") - run.early("reward/mean")
    noise = (first["eval/ci95"] ** 2 + last["eval/ci95"] ** 2) ** 0.5
    if gain < -noise and earned > _EARNED:
        yield Symptom(
            name="reward without accuracy",
            says="The reward rises and held-out accuracy falls: the reward pays for something "
            "else than the task.",
            evidence=f"reward {earned:+.2f}, held-out accuracy {first['eval/accuracy']:.2f} to "
            f"{last['eval/accuracy']:.2f} (+- {last['eval/ci95']:.2f})",
            turn="env.rewards; read answers of high reward in report.html",
        )


def _still(run: Record) -> Iterator[Symptom]:
    earned = run.late("reward/mean") - run.early("reward/mean")
    moved = run.late("loss/kl") if run.column("loss/kl") else None
    flat = run.late("group/zero_std") >= WHOLE.flat and not run.column("critic/value")
    if flat or len(run.steps) < _STEPS or moved is None:
        return
    if abs(earned) > _EVEN or moved > _MOVED:
        return
    yield Symptom(
        name="standing still",
        says="The policy hardly changes, although groups have rewards to compare.",
        evidence=f"KL {moved:.1e} nats per token after {len(run.steps)} steps, learning rate "
        f"{run.late('optim/lr'):.1e}, reward {earned:+.3f}",
        turn="agent.lr up, agent.loss.beta down, or more trainer.steps",
    )


def _print(run: Record) -> bool:
    """Print the symptoms; return whether there are any."""
    console = rich.get_console()
    first, last = run.early("reward/mean"), run.late("reward/mean")
    rewards = f"reward {first:.3f} at first, {last:.3f} at last" if run.steps else "nothing logged"
    head = f"{shown(run.path.resolve())}: {run.state}, {len(run.steps)} steps, {rewards}"
    console.print(escape(head), soft_wrap=True, highlight=False)
    found = diagnose(run)
    for number, symptom in enumerate(found, 1):
        console.print(f"\n{number}. [bold]{escape(symptom.says)}[/bold]", highlight=False)
        console.print(f"   seen: {escape(symptom.evidence)}", highlight=False)
        console.print(f"   turn: {escape(symptom.turn)}", highlight=False)
    if not found:
        console.print("\nThe rules find nothing wrong.")
    return bool(found)


@exit_on_error()
def main() -> None:
    """Read the options; exit 1 where something was found, 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m grpo_envs.doctor", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("run", type=Path, help="folder of a run, or of runs (the newest)")
    options = parser.parse_args()
    sys.exit(1 if _print(read_record(run_at(options.run))) else 0)


if __name__ == "__main__":
    main()
