"""Do the same answers earn the same reward in every trainer that takes our environments?

    python tests/benchmarks/doors.py --verifiers PYTHON

Episodes of five environments are graded as in our own runs, and by what TRL, verl, verifiers,
inspect-ai and lm-evaluation-harness call; rewards are compared to the bit. verifiers excludes other
packages: PYTHON is an interpreter of an environment that has it and grpo-envs (`.ci/verifiers
FOLDER` makes one). What is not installed is left out. OpenEnv's server has a table of its own,
served.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from grpo_envs.interop import verl
from grpo_envs.interop.trl import Task
from tests.support.door_answers import ENVIRONMENTS, Case, cases
from tests.support.scripted_trainer import ScriptedTrainer

PLAYER = Path(__file__).parents[1] / "support" / "in_verifiers.py"
Rewards = list[float | None]


def in_trl(name: str, episodes: Sequence[Case]) -> Rewards:
    """By the reward function; conversations are played by the rollout function first."""
    task = Task(name)
    rows = task.dataset("train", len(episodes))
    columns = {key: rows[key] for key in rows.column_names if key != "prompt"}
    if task.env.max_turns > 1:
        trainer = ScriptedTrainer([case.answers for case in episodes])
        played = task.rollout_func(rows["prompt"], trainer)
        columns |= {"graded": played["graded"]}
    said = [[{"role": "assistant", "content": case.answers[-1]}] for case in episodes]
    return list(task.reward_funcs[0](completions=said, prompts=rows["prompt"], **columns))


def by_tools(name: str, episodes: Sequence[Case]) -> Rewards:
    """By TRL's environment protocol: each answer is a call."""
    task = Task(name)
    players: list[Any] = [task.environment_factory() for _ in episodes]
    rows = task.dataset("train", len(episodes))
    for player, row, case in zip(players, rows, episodes, strict=True):
        player.reset(**row)
        for answer in case.answers:
            player.answer(answer)
    return list(task.reward_funcs[0](completions=[""] * len(rows), environments=players))


def in_verl(name: str, episodes: Sequence[Case]) -> Rewards | None:
    """By `compute_score`; None for conversations, which its rows refuse."""
    if Task(name).env.max_turns > 1:
        return None
    rows = verl.rows_of(name, {}, "train", len(episodes))
    return [
        verl.compute_score(
            row["data_source"],
            case.answers[0],
            row["reward_model"]["ground_truth"],
            extra_info=row["extra_info"],
        )["score"]
        for row, case in zip(rows, episodes, strict=True)
    ]


def in_verifiers(python: str, name: str, episodes: Sequence[Case]) -> Rewards:
    """By the taskset and the Env, in another interpreter."""
    asked = json.dumps({name: [case.answers for case in episodes]})
    done = subprocess.run(
        [python, str(PLAYER)], input=asked, capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout)[name])


def in_inspect(name: str, episodes: Sequence[Case]) -> Rewards:
    """By a run of Inspect with its mock model."""
    from grpo_envs.interop.inspect_ai import environment
    from tests.support.in_inspect import run

    task = environment(name, split="train", rows=len(episodes))
    with TemporaryDirectory() as logs:
        log = run(task, [case.answers for case in episodes], Path(logs))
        return [sample.scores["reward"].value["reward"] for sample in log.samples]


def in_lm_eval(name: str, episodes: Sequence[Case]) -> Rewards | None:
    """By a run of lm-evaluation-harness; None for conversations, which its task refuses."""
    from grpo_envs.interop.lm_eval import Task as Evaluated
    from tests.support.in_lm_eval import run

    if Task(name).env.max_turns > 1:
        return None
    task = Evaluated(name, split="train", rows=len(episodes))
    found = run(task, [case.answers[0] for case in episodes])
    return [sample["reward"] for sample in found["samples"][task.task_name]]


def main() -> None:
    """Print the table; exit 1 where a reward differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=200, help="of each environment")
    parser.add_argument("--verifiers", metavar="PYTHON", help="left out without it")
    options = parser.parse_args()
    doors: dict[str, Callable[[str, Sequence[Case]], Rewards | None]] = {
        "TRL": in_trl,
        "TRL, tools": by_tools,
        "verl": in_verl,
    }
    if options.verifiers:
        doors["verifiers"] = lambda name, episodes: in_verifiers(options.verifiers, name, episodes)
    if find_spec("inspect_ai"):
        doors["Inspect"] = in_inspect
    if find_spec("lm_eval"):
        doors["lm-eval"] = in_lm_eval
    print("| environment | answers | rewards |", " | ".join(doors), "|")
    print("|---|---:|---:|" + "---|" * len(doors))
    same = True
    for name in ENVIRONMENTS:
        episodes = cases(name, options.answers)
        own = [case.total for case in episodes]
        found = {door: ask(name, episodes) for door, ask in doors.items()}
        cells = [verdict(own, theirs) for theirs in found.values()]
        same &= not any("differ" in cell for cell in cells)
        print("|", " | ".join([name, str(len(own)), str(len(set(own))), *cells]), "|", flush=True)
    sys.exit(0 if same else 1)


def verdict(own: Rewards, theirs: Rewards | None) -> str:
    """Return a cell of the table."""
    if theirs is None:
        return "-"
    wrong = sum(one != other for one, other in zip(own, theirs, strict=True))
    return f"{wrong} differ" if wrong else "equal"


if __name__ == "__main__":
    main()
