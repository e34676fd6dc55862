"""The loop: what is recorded when, what a failing grader does, what a resume takes over."""

import json
import logging
import os
import signal
from collections.abc import Container, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache, reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import grpo_envs
from grpo_envs.config.composition import compose_run
from grpo_envs.config.schema import RunConfig
from grpo_envs.errors import ConfigError, RunStopped
from grpo_envs.runs.checkpoint import Checkpoints
from grpo_envs.runtime.timing import Timer
from grpo_envs.training.build import build
from grpo_envs.training.environments import make_envs
from grpo_envs.training.source import InStep
from grpo_envs.training.trainer import Trainer
from grpo_envs.training.utilisation import Utilisation
from grpo_envs.types import Completion, Group, Problem, Reward
from grpo_policy.flops import ModelFlops
from grpo_policy.models import TINY, load_policy

SMALL = [
    "model.size=tiny",
    "logger=files",
    "trainer.prompts_per_step=2",
    "trainer.eval_problems=4",
    "agent.group_size=2",
    "sampler.max_new_tokens=8",
]


@cache
def small() -> RunConfig:
    return compose_run(SMALL)


def trainer(out: Path, *overrides: str) -> Trainer:
    """A small run. Overrides are as on the command line, without Hydra's half a second each."""
    cfg = deepcopy(small())
    for key, _, text in (override.partition("=") for override in overrides):
        *nodes, name = key.split(".")
        value = text if key == "resume" else json.loads(text)
        setattr(reduce(getattr, nodes, cfg), name, value)
    return build(cfg, out, make_envs(cfg))


def test_graders_in_processes_change_nothing(tmp_path: Path) -> None:
    """The same rewards, weights and answers; `trainer.graders` need not be that of a resume."""
    runs = {}
    for where in ("none", "processes"):
        made = trainer(tmp_path / where, f'trainer.graders="{where}"', "trainer.steps=2")
        made.run()
        completions = (tmp_path / where / "completions.jsonl").read_text(encoding="utf-8")
        runs[where] = (completions, made.policy.trained_weights())
        assert "trainer.graders" not in made.decisive
    assert runs["none"][0] == runs["processes"][0]
    for name, value in runs["none"][1].items():
        assert value.equal(runs["processes"][1][name])


def in_step(made: Trainer) -> InStep:
    assert isinstance(made.source, InStep)
    return made.source


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_evaluations_and_checkpoints_come_when_they_are_due(tmp_path: Path) -> None:
    trainer(tmp_path, "trainer.steps=5", "trainer.eval_every=2", "trainer.save_every=3").run()
    assert steps(tmp_path / "eval.jsonl") == [0, 2, 4, 5]
    answered = [row["problem"] for row in rows(tmp_path / "eval_completions.jsonl")]
    assert answered == [0, 1, 2, 3] * 4, "the same held-out problems each time, in order"
    saved = sorted(p.name for p in (tmp_path / "checkpoints").glob("step_*"))
    assert saved == ["step_000003", "step_000005"]


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        pytest.param(0, [1, 2, 3], id="0 keeps all"),
        pytest.param(1, [3], id="the last"),
        pytest.param(2, [2, 3], id="the last two"),
    ],
)
def test_as_many_checkpoints_are_kept_as_were_asked_for(
    tmp_path: Path, keep: int, left: list[int]
) -> None:
    args = ["trainer.steps=3", "trainer.save_every=1", "trainer.eval_problems=0"]
    made = trainer(tmp_path, *args, f"trainer.keep_checkpoints={keep}")
    made.run()
    saved = sorted(folder.name for folder in made.checkpoints.folder.glob("step_*"))
    assert saved == [f"step_{step:06d}" for step in left]
    assert made.checkpoints.last.resolve().name == "step_000003"


def test_a_run_ends_with_the_metrics_of_its_last_step_and_evaluation(tmp_path: Path) -> None:
    made = trainer(tmp_path, "trainer.steps=2", 'trainer.sweep_metric="reward/mean"')
    metrics = made.run()
    for name, at in (("metrics", 2), ("eval", 2)):
        row = json.loads((tmp_path / f"{name}.jsonl").read_text().splitlines()[-1])
        assert row.pop("step") == at
        assert {key: pytest.approx(value, rel=1e-5) for key, value in row.items()} == {
            key: metrics[key] for key in row
        }
    # Cut off between the last checkpoint and the end, it has them from the checkpoint.
    again = trainer(tmp_path, "trainer.steps=2", f"resume={tmp_path}").run()
    assert again == metrics


def test_a_card_whose_peak_is_known_tells_its_utilisation(tmp_path: Path) -> None:
    """By a stand-in for its peak; a CPU has none, and no row."""
    args = ["trainer.steps=1", "trainer.eval_problems=0"]
    plain = trainer(tmp_path / "cpu", *args)
    assert plain.utilisation is None
    plain.run()
    assert not [name for name in plain.last if name.startswith("mfu/")]
    made = trainer(tmp_path / "gpu", *args)
    flops = ModelFlops.of(made.policy)
    assert flops is not None
    made.utilisation = Utilisation(flops=flops, peak=1e12)
    made.run()
    parts = {"mfu/sample": made.last["time/sample"], "mfu/update": made.last["time/update"]}
    done = {name: made.last[name] * seconds * 1e12 for name, seconds in parts.items()}
    tokens = 2 * made.policy.size * made.last["completion/length"] * made.last["group/sampled"]
    assert done["mfu/sample"] > tokens * made.group_size
    assert (
        done["mfu/update"]
        > 3 * tokens * made.group_size * made.last["group/used"] / (made.last["group/sampled"])
    )


def test_an_objective_that_is_no_metric_ends_the_run_after_a_step(tmp_path: Path) -> None:
    made = trainer(tmp_path, "trainer.steps=9", 'trainer.sweep_metric="eval/accurracy"')
    with pytest.raises(
        ConfigError, match=r"^trainer\.sweep_metric=.* Did you mean 'eval/accuracy'\?$"
    ):
        made.run()
    assert steps(tmp_path / "metrics.jsonl") == [1]
    # Without evaluations the default stands for none: only a sweeper that learns asks for more.
    trainer(tmp_path / "b", "trainer.steps=1", "trainer.eval_problems=0").run()


class Scorer:
    """A grader whose machinery fails: for every answer, or for one text whenever it comes."""

    def __init__(self, *, always: bool) -> None:
        self.always = always
        self.bad: str | None = None

    def __call__(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[Reward]:
        self.bad = answers[0] if self.bad is None else self.bad
        if self.always or self.bad in answers:
            raise OSError("sandbox down")
        return [Reward(parts={"correct": float(len(x) % 2), "format": 0.0}) for x in answers]


def test_too_many_invalid_rewards_stop_the_run_and_lose_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = trainer(tmp_path, "trainer.steps=4", "trainer.eval_problems=0")
    made._step()
    made._save()
    in_step(made).rollout.env.env.score_batch = Scorer(always=True)  # type: ignore[attr-defined]
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(RunStopped, match=r"100% .* step 2 .*max_invalid_fraction.*sandbox down"),
    ):
        made.run()
    assert "4 rewards are invalid: OSError: sandbox down" in caplog.text
    assert (tmp_path / "checkpoints" / "last").resolve().name == "step_000001"


def test_what_is_graded_while_sigterm_comes_does_not_count(tmp_path: Path) -> None:
    """A cluster manager ends the graders, too: their rewards would be invalid."""
    made = trainer(tmp_path, "trainer.steps=4", "trainer.eval_problems=0")

    def until_sigterm(problems: Sequence[Problem], answers: Sequence[str]) -> list[Reward]:
        if made.done < 1:
            return [Reward(parts={"correct": 1.0, "format": 0.0}) for _ in answers]
        os.kill(os.getpid(), signal.SIGTERM)
        return [Reward(valid=False, error="the sandbox was killed") for _ in answers]

    in_step(made).rollout.env.env.score_batch = until_sigterm  # type: ignore[attr-defined]
    made.run()
    assert made.stop.terminated
    assert steps(tmp_path / "metrics.jsonl") == [1]
    assert made.checkpoints.last.resolve().name == "step_000001"


def test_some_invalid_rewards_are_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    made = trainer(tmp_path, "trainer.steps=1", "trainer.eval_problems=0", "agent.group_size=4")
    in_step(made).rollout.env.env.score_batch = Scorer(always=False)  # type: ignore[attr-defined]
    made.run()
    (row,) = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < row["reward/invalid"] <= 0.5
    completions = [json.loads(x) for x in (tmp_path / "completions.jsonl").read_text().splitlines()]
    invalid = [c for c in completions if not c["valid"]]
    assert invalid
    assert all(c["advantage"] == 0 and "sandbox down" in c["error"] for c in invalid)


def test_a_resume_takes_over_step_weights_and_moments(tmp_path: Path) -> None:
    first = trainer(tmp_path, "trainer.steps=2", "agent.lr=1e-3")
    first.run()
    second = trainer(tmp_path, "trainer.steps=4", "agent.lr=1e-3", f"resume={tmp_path}")
    assert second.done == 2
    for name, value in first.policy.model.state_dict().items():
        assert value.equal(second.policy.model.state_dict()[name])
    moments = [t.agent.state_dict()["optimizer"]["state"] for t in (first, second)]
    assert all(moments[0][i]["exp_avg_sq"].equal(moments[1][i]["exp_avg_sq"]) for i in moments[0])
    reference = second.agent.learner.reference.model.state_dict()  # type: ignore[attr-defined]
    started = trainer(tmp_path / "new").policy.model.state_dict()
    assert all(value.equal(started[name]) for name, value in reference.items())


def test_rows_after_the_checkpoint_are_written_once(tmp_path: Path) -> None:
    """A run killed between two checkpoints repeats the steps after the first, not their rows."""
    made = trainer(tmp_path, "trainer.steps=4", "trainer.save_every=2", "trainer.eval_problems=0")
    for _ in range(3):
        made._step()
        if made.done == 2:
            made._save()
    for logger in made.loggers:
        logger.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "reward/me')  # cut off in the middle of a row
    again = trainer(tmp_path, "trainer.steps=4", "trainer.eval_problems=0", f"resume={tmp_path}")
    again.run()
    assert steps(tmp_path / "metrics.jsonl") == [1, 2, 3, 4]
    assert steps(tmp_path / "completions.jsonl") == sorted([1, 2, 3, 4] * 4)


def test_a_checkpoint_that_was_being_written_is_not_taken(tmp_path: Path) -> None:
    made = trainer(tmp_path, "trainer.steps=1", "trainer.eval_problems=0")
    made.run()
    half = tmp_path / "checkpoints" / ".step_000002.tmp"
    half.mkdir()
    (half / "trainer.json").write_text("{")
    step, folder, _ = Checkpoints(tmp_path).load(made.decisive)
    assert (step, folder.name) == (1, "step_000001")


def test_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint in it"):
        Checkpoints(tmp_path).load({})


def test_a_run_samples_and_scores_at_its_temperature_and_evaluates_greedily(
    tmp_path: Path,
) -> None:
    made = trainer(tmp_path, "trainer.steps=1", "sampler.temperature=0.5")
    made.run()
    (row,) = rows(tmp_path / "metrics.jsonl")
    assert row["policy/sample_gap"] < 1e-4
    cool = rows(tmp_path / "completions.jsonl")
    made = trainer(tmp_path / "hot", "trainer.steps=1", "sampler.temperature=3.0")
    made.run()
    assert [r["text"] for r in rows(tmp_path / "hot" / "completions.jsonl")] != [
        r["text"] for r in cool
    ]
    assert rows(tmp_path / "hot" / "eval.jsonl")[0] == rows(tmp_path / "eval.jsonl")[0]


# --- groups by hand in place of sampled ones: which problems are flat is known


class Scripted:
    """A rollout whose n-th problem of the run has two equal rewards where n is in `flat`."""

    def __init__(self, flat: Container[int] = (), *, bad: Container[int] = ()) -> None:
        self.flat, self.bad = flat, bad
        self.rounds: list[list[int]] = []
        """The problem seeds of each call."""

    def __call__(self, seeds: Sequence[int], timer: Timer) -> list[Group]:
        before = sum(map(len, self.rounds))
        self.rounds.append(list(seeds))
        with timer("sample"), timer("score"):
            return [self._group(seed, before + i) for i, seed in enumerate(seeds)]

    def _group(self, seed: int, number: int) -> Group:
        second = 1.0 if number in self.flat else 0.0
        rewards = [Reward(parts={"correct": r, "format": 0.0}) for r in (1.0, second)]
        if number in self.bad:
            rewards = [Reward(valid=False, error="sandbox down")] * 2
        return Group(
            key=seed,
            prompt="What is 1+1?",  # of all of them: a group is not its prompt
            prompt_ids=(5, 6, 7),
            completions=tuple(
                Completion(text="", token_ids=(20 + i, 30), logprobs=(-5.0, -5.0)) for i in range(2)
            ),
            rewards=tuple(rewards),
        )


def scripted(out: Path, rollout: Scripted, *overrides: str) -> Trainer:
    made = trainer(out, "trainer.eval_problems=0", "trainer.prompts_per_step=3", *overrides)
    in_step(made).rollout = rollout
    return made


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ordinals(out: Path, rollout: Scripted, step: int, *, taught: bool) -> list[int]:
    """Which of the run's problems taught in a step: those whose rows have an advantage."""
    order = [seed for part in rollout.rounds for seed in part]
    mine = [row for row in rows(out / "completions.jsonl") if row["step"] == step]
    found = [order.index(row["problem"]) for row in mine if bool(row["advantage"]) == taught]
    assert all(found.count(n) == 2 for n in found)
    return sorted(set(found))


EVERYTHING = range(1000)


@pytest.mark.parametrize(
    ("flat", "rounds", "used", "dropped"),
    [
        pytest.param([], 3, [0, 1, 2], [], id="none is flat: one round"),
        pytest.param([0, 1, 4], 3, [2, 3, 5], [0, 1, 4], id="flat ones are replaced"),
        pytest.param([0], 3, [1, 2, 3], [0, 4, 5], id="what is too many is cut"),
        pytest.param([0, 1, 2, 3, 4, 5, 6], 3, [7, 8, 9], [*range(7), 10, 11], id="four rounds"),
        pytest.param([0, 1, 2, 3, 4], 1, [5], [0, 1, 2, 3, 4], id="too few within the cap"),
    ],
)
def test_flat_groups_are_replaced(
    tmp_path: Path, flat: list[int], rounds: int, used: list[int], dropped: list[int]
) -> None:
    rollout = Scripted(flat)
    made = scripted(tmp_path, rollout, "trainer.steps=1", f"agent.dynamic_sampling={rounds}")
    made.run()
    (row,) = rows(tmp_path / "metrics.jsonl")
    assert (row["group/used"], row["group/sampled"]) == (len(used), len(used) + len(dropped))
    assert ordinals(tmp_path, rollout, 1, taught=True) == used
    assert ordinals(tmp_path, rollout, 1, taught=False) == dropped
    share = len(flat) / (len(used) + len(dropped))
    assert row["group/zero_std"] == pytest.approx(share, rel=1e-5)  # of all that was sampled
    assert row["reward/mean"] == pytest.approx(0.5 + share / 2, rel=1e-5)


def test_nothing_but_flat_groups_still_makes_a_step(tmp_path: Path) -> None:
    rollout = Scripted(EVERYTHING)
    made = scripted(tmp_path, rollout, "trainer.steps=2", "agent.dynamic_sampling=2")
    made.run()
    for row in rows(tmp_path / "metrics.jsonl"):
        assert (row["group/used"], row["group/sampled"], row["group/zero_std"]) == (3, 9, 1)
    assert made.done == 2
    assert len(rows(tmp_path / "completions.jsonl")) == 2 * 9 * 2
    assert not any(row["advantage"] for row in rows(tmp_path / "completions.jsonl"))


def test_without_dynamic_sampling_flat_groups_stay(tmp_path: Path) -> None:
    rollout = Scripted([0, 2])
    scripted(tmp_path, rollout, "trainer.steps=1").run()
    (row,) = rows(tmp_path / "metrics.jsonl")
    assert (row["group/used"], row["group/sampled"]) == (3, 3)
    assert ordinals(tmp_path, rollout, 1, taught=False) == [0, 2]


def test_no_problem_comes_twice_in_rounds_steps_and_runs(tmp_path: Path) -> None:
    """In rounds within a step, from step to step, and after a resume none is left out either."""
    args = ["agent.dynamic_sampling=2", "trainer.save_every=1"]
    first = Scripted([0, 1, 5, 6, 7])  # rounds of 3 in steps: 2, 2, 1
    scripted(tmp_path, first, "trainer.steps=3", *args).run()
    assert len(first.rounds) == 5
    second = Scripted([0])
    made = scripted(tmp_path, second, "trainer.steps=5", *args, f"resume={tmp_path}")
    assert (made.done, made.source.drawn) == (3, 15)
    made.run()
    drawn = [seed for part in [*first.rounds, *second.rounds] for seed in part]
    assert drawn == list(range(drawn[0], drawn[0] + len(drawn)))
    logged = {row["problem"] for row in rows(tmp_path / "completions.jsonl")}
    assert logged == set(drawn)


def test_a_curriculum_counts_the_groups_that_are_dropped(tmp_path: Path) -> None:
    """Of almost greedy answers every group is flat: most are dropped, and lead up all the same."""
    of = "{math: {levels: [1, 2], terms: [2, 2]}}"
    opened = "<|im_start|>assistant{{ '\\n' }}"  # who thinks is nearly always right
    template = (TINY / "chat_template.jinja").read_text(encoding="utf-8")
    assert opened in template
    (tmp_path / "thinks.jinja").write_text(template.replace(opened, f"{opened}<think>"))
    cfg = compose_run(
        [
            *(*SMALL, "trainer.steps=2", "trainer.eval_problems=0", "agent.dynamic_sampling=2"),
            f"model.chat_template={tmp_path}/thinks.jinja",
            *("env=mixture", f"env.of={of}", "env.pace=100"),
            *("sampler.temperature=0.01", "sampler.max_new_tokens=24"),
        ]
    )
    made = build(cfg, tmp_path, make_envs(cfg))
    made.run()
    right: dict[int, list[bool]] = {}
    for row in rows(tmp_path / "completions.jsonl"):
        right.setdefault(row["problem"], []).append(all(row["parts"].values()))
    points = sum(all(group) - (not any(group)) for group in right.values())
    used = sum(row["group/used"] for row in rows(tmp_path / "metrics.jsonl"))
    assert used < points, "those that were learned from could not lead up so far"
    assert made.env.state_dict() == {"points": {"math": points}}


def test_another_seed_draws_other_problems(tmp_path: Path) -> None:
    seeds = []
    for seed in (0, 1):
        rollout = Scripted()
        made = scripted(tmp_path / str(seed), rollout, "trainer.steps=1", f"seed={seed}")
        made.run()
        seeds.append(rollout.rounds[0])
    assert not set(seeds[0]) & set(seeds[1])


@pytest.mark.parametrize("save_every", [1, 50])
def test_the_problems_of_a_step_that_failed_come_again(tmp_path: Path, save_every: int) -> None:
    """The grader fails in step 3; whoever resumes once it works again misses no problem."""
    args = ["trainer.steps=4", f"trainer.save_every={save_every}"]
    first = Scripted(bad=range(6, 1000))
    with pytest.raises(RunStopped, match=r"100% .* of step 3 are invalid"):
        scripted(tmp_path, first, *args).run()
    second = Scripted()
    made = scripted(tmp_path, second, *args, f"resume={tmp_path}")
    assert made.done == 2
    made.run()
    assert second.rounds[0] == first.rounds[2]


def test_max_samples_ends_the_run(tmp_path: Path) -> None:
    """Six completions a step: 13 are there after the third."""
    rollout = Scripted()
    args = ["trainer.steps=9", "trainer.eval_problems=2", "trainer.max_samples=13"]
    made = trainer(tmp_path, "trainer.prompts_per_step=3", *args)
    in_step(made).rollout = rollout
    assert made.run() is not None
    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert [row["step"] for row in rows(tmp_path / "eval.jsonl")] == [0, 3]
    assert made.checkpoints.last.resolve().name == "step_000003"


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        pytest.param(["trainer.max_samples=12"], 2, id="exactly that many"),
        pytest.param(["trainer.max_samples=0"], 4, id="0: the steps decide"),
        pytest.param(["trainer.max_samples=1000"], 4, id="more than the steps take"),
        pytest.param(
            ["trainer.max_samples=13", "agent.dynamic_sampling=1"], 2, id="dropped ones count"
        ),
    ],
)
def test_samples_or_steps_end_the_run(tmp_path: Path, overrides: list[str], steps: int) -> None:
    made = scripted(tmp_path, Scripted([0, 1, 2, 6]), "trainer.steps=4", *overrides)
    made.run()
    assert made.done == steps


def spoil(made: Trainer, steps: Container[int]) -> None:
    """Make the gradients of these steps (0 is the first) not finite."""

    def hook(grad: Tensor) -> Tensor:
        return grad * float("nan") if made.done in steps else grad

    made.policy.model.get_input_embeddings().weight.register_hook(hook)


def last_weights(made: Trainer) -> dict[str, Tensor]:
    """The weights that someone who loads the last checkpoint gets."""
    state: dict[str, Tensor] = AutoModelForCausalLM.from_pretrained(
        made.checkpoints.last
    ).state_dict()
    return state


def test_gradients_that_stay_not_finite_stop_the_run(tmp_path: Path) -> None:
    args = ["trainer.steps=20", "trainer.max_skipped_steps=3", "agent.lr=1e-3"]
    made = scripted(tmp_path, Scripted(), *args)
    spoil(made, range(2, 100))
    with pytest.raises(RunStopped, match="3 steps in a row") as stopped:
        made.run()
    said = str(stopped.value)
    assert "\n" not in said
    for word in ("agent.lr", "trainer.max_skipped_steps", "checkpoints/last"):
        assert word in said
    assert made.done == 5
    skipped = [row["optim/skipped"] for row in rows(tmp_path / "metrics.jsonl")]
    assert skipped == [0, 0, 1, 1, 1]
    for name, value in last_weights(made).items():
        assert value.isfinite().all()
        assert value.equal(made.policy.model.state_dict()[name])
    trained = load_policy(str(TINY)).model.state_dict()["model.norm.weight"]
    assert not last_weights(made)["model.norm.weight"].equal(trained), "two steps were good"


def test_good_steps_in_between_start_the_count_anew(tmp_path: Path) -> None:
    made = scripted(tmp_path, Scripted(), "trainer.steps=8", "trainer.max_skipped_steps=3")
    spoil(made, [0, 1, 3, 4, 6, 7])
    made.run()
    assert made.done == 8


def test_a_step_with_some_good_updates_is_no_skipped_step(tmp_path: Path) -> None:
    args = ["trainer.steps=3", "trainer.max_skipped_steps=1", "agent.minibatches=3"]
    made = scripted(tmp_path, Scripted(), *args)
    calls: list[None] = []

    def hook(grad: Tensor) -> Tensor:
        calls.append(None)
        return grad * float("nan") if len(calls) % 3 == 1 else grad

    made.policy.model.model.norm.weight.register_hook(hook)
    made.run()
    assert [row["optim/skipped"] for row in rows(tmp_path / "metrics.jsonl")] == [1, 1, 1]


def test_metrics_are_json_whatever_the_gradients_are(tmp_path: Path) -> None:
    """NaN is none: jq, pandas and browsers refuse the file from that row on."""
    made = scripted(tmp_path, Scripted(), "trainer.steps=2", "agent.minibatches=3")
    spoil(made, [1])
    made.run()

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} in metrics.jsonl")

    for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize("stops", [True, False], ids=["the run is stopped", "the run ends"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, stops: bool) -> None:
    limit = 2 if stops else 99
    args = ["trainer.steps=4", "trainer.save_every=1", f"trainer.max_skipped_steps={limit}"]
    made = scripted(tmp_path, Scripted(), *args)
    made._step()
    made._save()
    with torch.no_grad():
        made.policy.model.model.norm.weight[3] = float("inf")
    if stops:
        with pytest.raises(RunStopped, match="not finite"):
            made.run()
    else:
        made.run()
    assert made.done > 1
    assert made.checkpoints.last.resolve().name == "step_000001"
    assert all(bool(value.isfinite().all()) for value in last_weights(made).values())
    assert not list((tmp_path / "checkpoints").glob("step_000002"))


# --- what a run says


def test_the_first_prompt_is_logged_as_the_model_sees_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trainer(tmp_path, "trainer.eval_problems=0")
    env = grpo_envs.make("math")
    (said,) = [r.getMessage() for r in caplog.records if "first prompt" in r.getMessage()]
    text = (
        f"<|im_start|>system\n{env.system_prompt}<|im_end|>\n"
        f"<|im_start|>user\n{env.problem(0).prompt}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert said.endswith(repr(text))


def test_reasons_for_not_learning_are_warnings_of_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Loud, once, with the step: what ten steps of zero-variance groups by hand are told of."""
    with caplog.at_level(logging.WARNING):
        scripted(tmp_path, Scripted(EVERYTHING), "trainer.steps=12").run()
    said = [r.getMessage() for r in caplog.records if r.name == "grpo_envs.training.trainer"]
    assert [" ".join(line.split()[:5]) for line in said] == [
        "step 10: Nothing to learn",
        "step 10: reward/correct teaches nothing:",
        "step 10: reward/format teaches nothing:",
        "step 10: Sampling and training",  # the log-probabilities are by hand as well
    ]


# Problems that are too long for the model's context


def every_third_too_long(made: Trainer) -> None:
    """Let each problem whose number 3 divides have a prompt of more than the context's 2,048."""
    draw = made.source.room.env.problem  # type: ignore[attr-defined]

    def problem(seed: int, split: str | None = None) -> Problem:
        drawn: Problem = draw(seed, split)
        return replace(drawn, prompt="7" * 2100) if seed % 3 == 0 else drawn

    made.source.room.env.problem = problem  # type: ignore[attr-defined]
    made.evaluation.main.env.problem = problem  # type: ignore[method-assign]


def test_problems_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    made = trainer(tmp_path, "trainer.steps=3")
    every_third_too_long(made)
    made.run()
    numbers = [row["problem"] for row in rows(tmp_path / "completions.jsonl")]
    drawn = sorted(set(numbers))
    assert len(drawn) == 6
    assert all(number % 3 for number in drawn)
    assert drawn[-1] - drawn[0] in (7, 8)  # the next ones in order
    assert numbers == sorted(numbers)
    counted = [row["group/too_long"] for row in rows(tmp_path / "metrics.jsonl")]
    assert sum(counted) in (2.0, 3.0)
    assert made.source.drawn == 6
    answered = {row["problem"] for row in rows(tmp_path / "eval_completions.jsonl")}
    assert answered == {1, 2}
    assert [row["eval/too_long"] for row in rows(tmp_path / "eval.jsonl")] == [2.0, 2.0]


def test_a_problem_that_may_not_be_too_long_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    made = trainer(tmp_path, "trainer.steps=3", "trainer.eval_problems=0")
    in_step(made).room.drop = False
    problem = in_step(made).room.env.problem
    fits = iter([True] * 5)

    def later_too_long(seed: int, split: str | None = None) -> Problem:
        drawn = problem(seed, split)
        return drawn if next(fits, False) else replace(drawn, prompt="7" * 2100)

    in_step(made).room.env.problem = later_too_long  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"^env.too_long=error: the prompt '7+'"):
        made.run()
    assert (tmp_path / "checkpoints" / "last" / "model.safetensors").is_file()
    assert (tmp_path / "checkpoints" / "last").resolve().name == f"step_{made.done:06d}"


def test_a_resumed_run_goes_on_behind_the_problems_that_were_left_out(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", "trainer.steps=4")
    every_third_too_long(whole)
    whole.run()
    for done in (2, 4):
        more = [f"resume={tmp_path / 'parts'}"] if done > 2 else []
        part = trainer(tmp_path / "parts", f"trainer.steps={done}", *more)
        every_third_too_long(part)
        part.run()
    one, other = (
        [(row["problem"], row["text"]) for row in rows(tmp_path / name / "completions.jsonl")]
        for name in ("whole", "parts")
    )
    assert one == other
    state = whole.policy.state_dict()
    assert all(torch.equal(state[name], value) for name, value in part.policy.state_dict().items())
    assert in_step(part).too_long == in_step(whole).too_long > 0


def test_an_evaluation_of_nothing_but_long_problems_is_refused(tmp_path: Path) -> None:
    made = trainer(tmp_path, "trainer.eval_problems=1")
    every_third_too_long(made)
    with pytest.raises(ConfigError, match="every problem of the split eval leaves no room"):
        made.run()
