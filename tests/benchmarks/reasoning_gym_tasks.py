"""Every task of reasoning-gym through check_env: makes the table of docs/reasoning_gym.md.

    python tests/benchmarks/reasoning_gym_tasks.py

Each task has a process of its own with a time limit. Tasks that the environment refuses are checked
all the same, so the table shows what they break.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

from grpo_env_reasoning_gym import ReasoningGymEnv
from grpo_env_reasoning_gym.library import tasks
from grpo_env_reasoning_gym.refused import REFUSED
from grpo_envs.env.conformance import check_promises
from grpo_envs.errors import GrpoEnvsError

SEEDS = 30
CONSTANT = (
    *("?", "0", "1", "2", "-1", "1.0", "True", "False", "yes", "no", "Yes", "No", "[]", "{}"),
    *("[[]]", "None", "null", "nan", "inf", "A", "x", "infeasible", "I do not know"),
    "0 1 2 3 4 5 6 7 8 9",
)
MOSTLY = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was found of a task."""

    task: str
    distinct: int = 0
    """Distinct questions among SEEDS of each split."""
    broken: tuple[str, ...] = ()
    """Promise and evidence of each that did not hold."""
    note: str = ""
    seconds: float = 0.0
    """To draw a question, retries for the split included; the slowest split's mean."""


def look(task: str, problems: int) -> Row:
    """Check a task here, refused or not."""
    with patch.dict(REFUSED, clear=True):
        try:
            env = ReasoningGymEnv(task=task, workers=1)
        except GrpoEnvsError as error:
            return Row(task=task, broken=(str(error),))
    prompts, seconds = set(), 0.0
    for split in ("train", "eval"):
        began = time.perf_counter()
        prompts |= {env.problem(seed, split).prompt for seed in range(SEEDS)}
        seconds = max(seconds, (time.perf_counter() - began) / SEEDS)
    found = check_promises(env, problems)
    broken = tuple(f"{one.promise}: {one.evidence}" for one in found if one.evidence)
    broken += tuple(paid_for_junk(env))
    note = "; ".join(one.note for one in found if one.note)
    return Row(task=task, distinct=len(prompts), broken=broken, note=note, seconds=seconds)


def paid_for_junk(env: ReasoningGymEnv) -> Iterator[str]:
    """Yield constant answers that earn the maximum on most questions, and echoes that do."""
    asked = [env.problem(seed) for seed in range(12)]
    others = [problem.gold.answer for problem in asked[:3]]

    def share(answers: Sequence[str]) -> float:
        rewards = env.score_batch(asked, [f"<answer>{answer}</answer>" for answer in answers])
        return sum(reward.parts.get("correct", 1.0) for reward in rewards) / len(asked)

    for constant in (*CONSTANT, *others):
        if constant and share([constant] * len(asked)) > MOSTLY:
            yield f"a constant answer earns the maximum: {constant[:40]!r} on most of 12 questions"
    if share([problem.prompt for problem in asked]):
        yield "the question as the answer earns the maximum"


def look_apart(task: str, problems: int, limit: float) -> Row:
    """Check a task in a process that ends in time."""
    command = [sys.executable, __file__, "--task", task, "--problems", str(problems)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return Row(task=task, broken=(f"not checked in {limit:g} s",))
    if done.returncode:
        return Row(task=task, broken=(done.stderr.strip().splitlines()[-1],))
    fields = json.loads(done.stdout.splitlines()[-1])
    return Row(**{**fields, "broken": tuple(fields["broken"])})


def table(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines = ["| task | distinct | seconds | check | reason |", "|---|---|---|---|---|"]
    for row in rows:
        check = "refused" if row.task in REFUSED else "broken" if row.broken else "held"
        reason = REFUSED.get(row.task) or "; ".join(row.broken) or row.note
        cell = " ".join(reason.split()).replace("|", "\\|")
        lines.append(f"| {row.task} | {row.distinct} | {row.seconds:.2f} | {check} | {cell} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, or one row as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", help="only this one, as JSON")
    parser.add_argument("--problems", type=int, default=3, help="of each split (%(default)s)")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds a task (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="tasks at a time (%(default)s)")
    parser.add_argument("--json", help="also write the rows here, one a line")
    options = parser.parse_args()
    if options.task:
        print(json.dumps(asdict(look(options.task, options.problems))))
        return
    names = tasks()
    with ThreadPoolExecutor(options.jobs) as jobs:
        rows = list(jobs.map(lambda t: look_apart(t, options.problems, options.limit), names))
    if options.json:
        lines = [json.dumps(asdict(row)) + "\n" for row in rows]
        Path(options.json).write_text("".join(lines), encoding="utf-8")
    held = sum(not row.broken and row.task not in REFUSED for row in rows)
    refused = sum(row.task in REFUSED for row in rows)
    print(f"# reasoning-gym {version('reasoning-gym')}, task by task\n")
    counts = f"{held} held, {refused} refused, {len(rows) - held - refused} broken"
    print(f"`python tests/benchmarks/reasoning_gym_tasks.py`: {len(rows)} tasks, {counts}.\n")
    print(table(rows))


if __name__ == "__main__":
    main()
