"""`python -m grpo_envs.evaluate` prints what the answers say, however often it is cut off."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_env_math import MathEnv
from grpo_envs import Problem, evaluate
from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError
from grpo_envs.runs.rows import read_jsonl
from grpo_envs.training.build import build
from grpo_envs.training.environments import make_envs
from tests.support import forked

MIXED = "env.of={countdown: 1, math: {weight: 1, levels: [1, 3]}}"
SMALL = ["sampler.max_new_tokens=16", "model.size=tiny"]


def evaluated(
    out: Path, *overrides: str, problems: int = 6, samples: int = 2
) -> evaluate.Evaluated:
    cfg = compose_run([*SMALL, *overrides])
    cfg.trainer.eval_problems, cfg.trainer.eval_samples = problems, samples
    return evaluate.evaluate(cfg, out)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An evaluation of a mixture by the command: its folder and what was printed."""
    cwd = tmp_path_factory.mktemp("evaluate")
    args = ["env=mixture", MIXED, *SMALL, "--problems", "40", "--samples", "4"]
    done = forked.run(cwd, "grpo_envs.evaluate", *args)
    assert done.returncode == 0, done.stderr
    (folder,) = (cwd / "outputs" / "evaluate" / "mixture").iterdir()
    return folder, done.stdout


def right(row: dict[str, Any]) -> bool:
    """Whether all of its own parts are 1: an independent reading of completions.jsonl."""
    own = {name: value for name, value in row["parts"].items() if value is not None}
    return bool(row["valid"]) and all(value == 1 for value in own.values())


def wilson_ends(share: float, n: float) -> Sequence[float]:
    z2 = 1.96**2
    return sorted(np.roots([1 + z2 / n, -(2 * share + z2 / n), share**2]).real)


def test_the_numbers_are_those_of_the_answers(mixture: tuple[Path, str]) -> None:
    folder, printed = mixture
    rows = read_jsonl(folder / "completions.jsonl")
    told = json.loads((folder / "evaluation.json").read_text())["estimates"]
    greedy = [row for row in rows if row["decoding"] == "greedy"]
    sampled = [row for row in rows if row["decoding"] == "sampled"]
    assert [row["problem"] for row in greedy] == sorted(range(40))
    assert len(sampled) == 160

    accuracy = np.mean([right(row) for row in greedy])
    prompts = [row["prompt"] for row in greedy]
    if len(set(prompts)) == len(prompts):
        assert [told["accuracy"]["low"], told["accuracy"]["high"]] == pytest.approx(
            wilson_ends(float(accuracy), 40), abs=1e-9
        )
    assert told["accuracy"]["mean"] == pytest.approx(accuracy)
    counts = [sum(right(r) for r in sampled if r["problem"] == n) for n in range(40)]
    for k in (1, 2, 4):
        expected = np.mean([1 - comb(4 - c, k) / comb(4, k) for c in counts])
        assert told[f"pass@{k}"]["mean"] == pytest.approx(expected)
    rewards = np.array([[r["reward"] for r in sampled if r["problem"] == n] for n in range(40)])
    assert told["sampled_reward"]["mean"] == pytest.approx(rewards.mean())
    if len(set(prompts)) == len(prompts):
        half = 1.96 * rewards.mean(axis=1).std() / np.sqrt(40)
        assert told["sampled_reward"]["high"] == pytest.approx(rewards.mean() + half)
    for name in ("math", "countdown"):
        of = [right(row) for row in greedy if row["meta"]["env"] == name]
        assert told[f"accuracy/{name}"]["mean"] == pytest.approx(np.mean(of))
    for level in (1, 3):
        of = [right(row) for row in greedy if row["meta"].get("level") == level]
        assert told[f"accuracy/math/level_{level}"]["mean"] == pytest.approx(np.mean(of))
    assert f"{accuracy:.3f}" in printed
    assert f"{told['pass@4']['mean']:.3f}" in printed
    assert "math/level 3" in printed


def test_cut_off_it_goes_on_and_ends_with_the_same_answers(tmp_path: Path) -> None:
    whole = evaluated(tmp_path / "a")
    file = whole.folder / "completions.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    part = evaluated(tmp_path / "b", problems=2)
    assert part.folder.name == whole.folder.name  # more problems are more of the same
    torn = part.folder / "completions.jsonl"
    # Two problems are whole, a third lacks its samples, a line was not written to its end.
    torn.write_text("".join(lines[:2] + lines[6:10] + lines[2:3]) + lines[3][:30])
    again = evaluated(tmp_path / "b")
    key = ("problem", "decoding", "text")
    assert sorted(tuple(r[k] for k in key) for r in again.rows) == sorted(
        tuple(r[k] for k in key) for r in whole.rows
    )


def test_what_is_answered_is_not_answered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluated(tmp_path)

    def never(*args: object) -> None:
        raise AssertionError("it asked the model again")

    monkeypatch.setattr(evaluate, "_opened", never)
    assert evaluated(tmp_path).rows == first.rows
    fewer = evaluated(tmp_path, problems=3)
    assert {row["problem"] for row in fewer.rows} == {0, 1, 2}
    for other in ("env.level=2", "trainer.eval_temperature=0.5", "seed=1"):
        with pytest.raises(AssertionError, match="asked the model again"):
            evaluated(tmp_path, other)


def test_a_model_that_is_not_there_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path=nowhere"):
        evaluated(tmp_path / "out", "model.path=nowhere")
    assert not (tmp_path / "out").exists()


def test_two_models_are_compared_on_the_same_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*SMALL, "trainer.steps=1", "trainer.prompts_per_step=2", "logger=files"]
    cfg = compose_run([*overrides, "agent.lr=0.01", "agent.group_size=2", "model.lora.rank=2"])
    cfg.trainer.eval_problems = 0
    build(cfg, tmp_path / "run", make_envs(cfg)).run()  # adapters alone are a model, too
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "sampler.max_new_tokens=16", "a=tiny", "b=run", "--problems=20"]
    monkeypatch.setattr(sys, "argv", command)
    evaluate.main()
    assert "b - a" in capsys.readouterr().out
    (file,) = (tmp_path / "outputs" / "evaluate" / "math").glob("compare-*.json")
    gains = json.loads(file.read_text())["b - a"]
    sides = {path.name.split("-")[0]: path for path in file.parent.iterdir() if path.is_dir()}
    rows = {
        name: {
            row["problem"]: row
            for row in read_jsonl(path / "completions.jsonl")
            if row["decoding"] == "greedy"
        }
        for name, path in sides.items()
    }
    off = np.array([rows["run"][n]["reward"] - rows["tiny"][n]["reward"] for n in range(20)])
    assert gains["reward"]["mean"] == pytest.approx(off.mean())
    half = 1.96 * off.std() / np.sqrt(20)
    assert gains["reward"]["high"] == pytest.approx(off.mean() + half)
    monkeypatch.setattr(sys, "argv", [*command[:3], "b=tiny", command[-1]])
    evaluate.main()
    same = capsys.readouterr().out
    assert "unclear" in same
    assert "higher" not in same


@pytest.mark.parametrize(
    ("args", "said"),
    [
        pytest.param(["a=tiny"], "a=... alone. Allowed: a=MODEL b=MODEL", id="a alone"),
        pytest.param(["--problems", "0"], "no held-out problems. Allowed: 1 or", id="0"),
        pytest.param(["--samples", "-1"], "trainer.eval_samples=-1. Allowed: 0 or more.", id="-1"),
        pytest.param(["env=mth"], "Did you mean 'math'?", id="typo"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    args: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", *args])
    with pytest.raises(SystemExit) as stopped:
        evaluate.main()
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert told.startswith("grpo_envs: ")
    assert said in told
    assert len(told.splitlines()) == 1


def test_problems_that_are_too_long_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = MathEnv.problem

    def problem(self: MathEnv, seed: int, split: str | None = None) -> Problem:
        drawn = draw(self, seed, split)
        return replace(drawn, prompt="7" * 2100) if seed in (0, 2) else drawn

    monkeypatch.setattr(MathEnv, "problem", problem)
    for problems, too_long in ((4, 2), (5, 2), (5, 2)):  # later ones go on with what is there
        found = evaluated(tmp_path, "env=math", problems=problems, samples=1)
        assert {row["problem"] for row in found.rows} == set(range(problems)) - {0, 2}
        assert found.too_long == too_long
    with pytest.raises(ConfigError, match="every problem of the split eval leaves no room"):
        evaluated(tmp_path / "new", "env=math", problems=1, samples=1)
    with pytest.raises(ConfigError, match=r"^env.too_long=error: the prompt '7777"):
        evaluated(tmp_path, "env=math", "env.too_long=error", problems=4, samples=1)
