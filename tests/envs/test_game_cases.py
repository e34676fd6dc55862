"""Cases of env=gym and env=countdown in tests/data/cases: what is played and what it must earn."""

import json
from pathlib import Path
from typing import Any

import pytest

import grpo_envs
from grpo_env_games.countdown import CountdownEnv, Goal
from grpo_envs.types import Problem

CASES = Path(__file__).parents[1] / "data" / "cases" / "code"
QUIRKY = "tests.support.text_games:text_games/Quirky-v0"
QUIRKS = {
    "env that draws from the global random (tg.Hang, quirk='global random')": "global random",
    "step raises SystemExit": "exit in step",
    "reward inf": "inf",
}
"""What the cases that name an environment of their own come to in ours."""


def rows(name: str) -> list[dict[str, Any]]:
    lines = (CASES / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("row", rows("12_gym.jsonl"), ids=lambda row: row["case"][:60])
def test_what_a_wrapped_environment_earns(row: dict[str, Any]) -> None:
    quirk = row["quirk"] if "quirk" in row else QUIRKS[row["case"]]
    env = grpo_envs.make("gym", id=QUIRKY, kwargs={"quirk": quirk})
    prompt, _ = env.reset(seed=3)
    answer = prompt.split()[-1].removesuffix(".")[::-1]
    info: dict[str, Any] = {}
    over = False
    while not over:
        *_, terminated, truncated, info = env.step(answer)
        over = terminated or truncated
    if row["want"] == "1":
        assert (info["reward_valid"], info["reward/score"]) == (1, 1)
    else:
        assert "invalid" in row["want"]
        assert (info["reward_valid"], info["reward/score"]) == (0, 0)
        _, _, why = row["want"].partition("invalid: ")
        assert why in info["detail"]


@pytest.mark.parametrize("row", rows("12_countdown.jsonl"), ids=lambda row: ascii(row["answer"]))
def test_what_an_expression_earns(row: dict[str, Any]) -> None:
    problem = Problem(prompt="", gold=Goal(tuple(row["numbers"]), row["target"]), solution="")
    reward = CountdownEnv(level=4).score(problem, f"<answer>{row['answer']}</answer>")
    assert reward.parts["correct"] == row["want"], reward.note
