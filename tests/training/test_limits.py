"""More evaluations, the best checkpoint, and what ends a run before its last step."""

import json
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.config.composition import compose_run
from grpo_envs.config.schema import TrainerConfig
from grpo_envs.errors import ConfigError
from grpo_envs.runs.checkpoint import Checkpoints
from grpo_envs.training.environments import make_envs
from grpo_envs.training.limits import Limits
from tests.training.test_trainer import rows, steps, trainer

EVERY = ["trainer.eval_every=1", "trainer.steps=6", "trainer.save_every=50"]


def limits(values: list[float], **keys: Any) -> Limits:
    made = Limits(TrainerConfig(eval_every=1, **keys))
    for step, value in enumerate(values):
        made.evaluated(step, {"eval/accuracy": value})
    return made


def test_the_best_evaluation_is_the_first_of_the_highest() -> None:
    made = limits([0.1, 0.3, 0.2, 0.3])
    assert (made.best, made.best_step, made.since, made.any) == (0.3, 1, 2, False)
    assert made.reached() == ""


@pytest.mark.parametrize(
    ("values", "keys", "said"),
    [
        ([0.1, 0.5], {"target": 0.5}, "trainer.target=0.5: eval/accuracy is 0.5"),
        ([0.5, 0.1], {"target": 0.5}, ""),
        ([0.2, 0.1], {"patience": 2}, ""),
        (
            [0.2, 0.1, 0.2],
            {"patience": 2},
            "trainer.patience=2: eval/accuracy has not risen in 2 evaluations; the best was 0.2 "
            "after step 0",
        ),
    ],
)
def test_evaluations_end_a_run(values: list[float], keys: dict[str, Any], said: str) -> None:
    made = limits(values, **keys)
    assert made.reached() == said
    again = Limits(made.cfg)
    again.load_state_dict(made.state_dict())
    assert again == made


def test_time_and_tokens_end_a_run() -> None:
    made = limits([], max_minutes=2, max_tokens=100)
    made.seconds, made.tokens = 119.0, 99
    assert made.reached() == ""
    made.tokens = 100
    assert made.reached() == "trainer.max_tokens=100: 100 tokens were sampled"
    made.seconds = 120.0
    assert made.reached() == "trainer.max_minutes=2: it took 2.0"


def scripted(made: Any, values: list[float]) -> None:
    """Let the evaluations find these accuracies, one after another."""
    found = iter(values)
    made.evaluation = _Scripted(lambda: ({"eval/accuracy": next(found), "eval/ci95": 0.0}, []))


class _Scripted:
    problems = 1

    def __init__(self, evaluate: Any) -> None:
        self.evaluate = evaluate

    def __call__(self) -> Any:
        return self.evaluate()


def test_a_run_ends_early_keeps_the_best_and_goes_on_with_more_patience(tmp_path: Path) -> None:
    keys = [*EVERY, "trainer.keep_best=true", "trainer.keep_checkpoints=1"]
    made = trainer(tmp_path, *keys, "trainer.patience=2")
    scripted(made, [0.1, 0.4, 0.3, 0.2])
    made.run()
    assert (made.done, made.stopped.split(":")[0]) == (3, "trainer.patience=2")
    assert steps(tmp_path / "eval.jsonl") == [0, 1, 2, 3], "the last one is made once"
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.best.resolve() == checkpoints.after(1).resolve()
    kept = sorted(path.name for path in checkpoints.folder.glob("step_*"))
    assert kept == ["step_000001", "step_000003"], "the best and the last"
    again = trainer(tmp_path, *keys, "trainer.patience=3", f"resume={tmp_path}")
    scripted(again, [0.35])
    again.run()
    assert (again.done, again.limits.since) == (4, 3)
    same = trainer(tmp_path, *keys, "trainer.patience=3", f"resume={tmp_path}")
    scripted(same, [0.35])
    same.run()
    assert (same.done, same.stopped) == (4, again.stopped), "it says again why it does not go on"


def test_a_target_and_a_number_of_tokens_end_a_run(tmp_path: Path) -> None:
    made = trainer(tmp_path / "target", *EVERY, "trainer.target=0.5")
    scripted(made, [0.1, 0.6])
    assert made.run()["eval/accuracy"] == 0.6
    assert (made.done, made.stopped) == (1, "trainer.target=0.5: eval/accuracy is 0.6")
    few = trainer(tmp_path / "few", *EVERY, "trainer.max_tokens=40", "trainer.eval_problems=0")
    few.run()
    assert few.stopped.startswith("trainer.max_tokens=40: ")
    sampled = [row["tokens"] for row in rows(tmp_path / "few" / "completions.jsonl")]
    assert few.limits.tokens == sum(sampled) >= 40 > sum(sampled[:-4])


def test_what_may_change_when_a_run_goes_on() -> None:
    one = compose_run([])
    for key in ("target=0.5", "patience=2", "max_minutes=3", "max_tokens=9"):
        other = compose_run([f"trainer.{key}", "trainer.eval_every=1"])
        assert one.decisive() == other.decisive()
        assert one.identity() != other.identity()


def test_another_evaluation_has_its_own_problems_and_metrics(tmp_path: Path) -> None:
    others = {"products": {"level": 3}, "games": {"name": "countdown"}}
    made = trainer(tmp_path, "trainer.steps=1", f"trainer.evaluations={json.dumps(others)}")
    metrics = made.run()
    assert {"eval/accuracy", "eval/products/accuracy", "eval/games/reward"} <= metrics.keys()
    answers = rows(tmp_path / "eval_completions.jsonl")
    of = {
        name: [row["prompt"] for row in answers if row.get("evaluation") == name]
        for name in (None, "products", "games")
    }
    assert [len(prompts) for prompts in of.values()] == [8, 8, 8]
    assert all("*" in prompt for prompt in of["products"])
    assert not any("*" in prompt for prompt in of[None])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.patience=2"], "trainer.patience=2 with trainer.eval_every=0: *1 or more."),
        (
            ["trainer.target=1", "trainer.eval_every=2", "trainer.sweep_metric=reward/mean"],
            "trainer.target=1.0 with trainer.sweep_metric=reward/mean: *such as eval/accuracy.",
        ),
        (
            ["trainer.keep_best=true", "trainer.eval_problems=0"],
            "trainer.keep_best=True with trainer.eval_problems=0: *1 or more.",
        ),
        (["trainer.max_minutes=-1"], "trainer.max_minutes=-1.0. Allowed: *0 or more."),
        (["trainer.evaluations={reward: {}}"], "trainer.evaluations=reward. Allowed: a name *"),
        (["trainer.evaluations={hard: 3}"], "trainer.evaluations.hard=3. Allowed: keys of env*"),
        (
            ["trainer.evaluations={hard: {levl: 3}}"],
            "trainer.evaluations.hard: *env.levl*Did you mean 'level'?",
        ),
    ],
)
def test_a_mistake_is_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_envs(compose_run(overrides))
    line, place = str(caught.value), 0
    for part in said.split("*"):
        assert part in line[place:], line
        place = line.index(part, place) + len(part)
    assert "\n" not in line
