"""A run with a lag: which weights sample a step, and that nothing else is changed by it."""

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.config.composition import compose_run
from grpo_envs.config.schema import RunConfig
from grpo_envs.errors import ConfigError, RunStopped
from grpo_envs.runs.groups import from_text, to_text
from grpo_envs.runs.rows import read_jsonl
from grpo_envs.runtime.processes import Processes, ProcessLost
from grpo_envs.runtime.stopping import StopNow
from grpo_envs.training.ahead import Ahead
from grpo_envs.training.build import build
from grpo_envs.training.environments import make_envs
from grpo_envs.training.source import InStep
from grpo_envs.training.trainer import Trainer
from grpo_envs.types import Completion, Group, Problem, Reply, Reward, Turn
from grpo_policy.samplers.process import SamplerProcess
from tests.support import beside
from tests.training.test_resume import in_a_child

SMALL = [
    *("model.size=tiny", "logger=files", "trainer.steps=5", "trainer.prompts_per_step=2"),
    *("trainer.eval_problems=0", "trainer.save_every=2", "agent.group_size=2"),
    *("sampler.max_new_tokens=8", "agent.lr=1e-3", "agent.loss.beta=0"),
    "agent.loss.entropy=0.05",  # each update moves the weights, those of zero-variance groups, too
    "agent.loss.correction=truncate",  # of the oracle, too
]
EVALUATED = ["trainer.eval_problems=2", "trainer.eval_every=2"]
FLAT = ["agent=dapo", "agent.minibatches=1"]
"""Zero-variance groups are replaced, so the first problem of the next step is not known before."""
LEVELS = [
    *("env=mixture", "env.of={math: {levels: [1, 2, 3], terms: [2, 2]}}", "env.pace=1"),
    *("sampler.temperature=0.3", "sampler.max_new_tokens=24"),
]
"""The environment adapts to the steps before."""


@pytest.fixture(autouse=True, scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        beside.install(tmp_path_factory.mktemp("site"), patch)
        yield


@cache
def composed(*overrides: str) -> RunConfig:
    return compose_run([*SMALL, *overrides])


def made(out: Path, lag: int, *overrides: str, sampler: str = "beside") -> Trainer:
    kind = tuple(word for word in overrides if not word.startswith("resume="))
    cfg = deepcopy(composed(*kind))
    cfg.trainer.lag, cfg.sampler.name = lag, sampler
    cfg.resume = next((word[7:] for word in overrides if word not in kind), None)
    return build(cfg, out, make_envs(cfg))


def delayed(out: Path, lag: int, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Trainer:
    """The oracle: no thread, nothing in flight; sampler and environment themselves are late."""
    monkeypatch.setattr(beside, "LAG", [lag])
    trainer = made(out, 0, *overrides, sampler="delayed")
    source = in_step(trainer)
    adapt, waiting = source.adapt, list[Sequence[Group]]()

    def late(groups: Sequence[Group]) -> None:
        waiting.append(groups)
        if len(waiting) > lag:
            adapt(waiting.pop(0))

    source.adapt = late
    return trainer


def in_step(trainer: Trainer) -> InStep:
    source = trainer.source
    inner = source.source if isinstance(source, Ahead) else source
    assert isinstance(inner, InStep)
    return inner


def left_by(out: Path) -> dict[str, Any]:
    """All that a run leaves but its times, and what says how late it was."""
    own = ("time/", "tokens/", "score/hidden", "memory/", "policy/lag")
    found: dict[str, Any] = {
        name: [
            {key: value for key, value in row.items() if not key.startswith(own)}
            for row in read_jsonl(out / f"{name}.jsonl")
        ]
        for name in ("metrics", "completions", "eval")
    }
    weights = (out / "checkpoints" / "last").resolve() / "model.safetensors"
    return {**found, "weights": sha256(weights.read_bytes()).hexdigest()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """What a run leaves that nothing happens to."""

    @cache
    def left(lag: int) -> dict[str, Any]:
        out = tmp_path_factory.mktemp("straight")
        made(out, lag).run()
        return left_by(out)

    return left


def versions_of(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """The versions of the weights that sampled each step, as its update is given them."""
    found: list[set[int]] = []
    update = trainer.agent.update

    def noted(groups: Sequence[Group]) -> Any:
        assert isinstance(trainer.source, Ahead)
        in_flight = [begun.step for begun in trainer.source._begun]
        assert in_flight == [trainer.done + 2 + i for i in range(trainer.source.lag)]
        found.append({group.version for group in groups})
        return update(groups)

    monkeypatch.setattr(trainer.agent, "update", noted)
    return found


@pytest.mark.parametrize(
    ("lag", "kind"),
    [
        pytest.param(1, [], id="1"),
        pytest.param(3, EVALUATED, id="3, evaluated"),
        pytest.param(2, FLAT, id="2, zero-variance groups are replaced"),
        pytest.param(2, LEVELS, id="2, the environment adapts"),
    ],
)
def test_a_step_is_as_if_sampler_and_environment_were_so_many_steps_late(
    lag: int, kind: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit. The oracle would be evaluated with old weights, and so is not."""
    trainer = made(tmp_path / "ahead", lag, *kind)
    versions = versions_of(trainer, monkeypatch)
    trainer.run()
    assert versions == [{max(0, step - lag)} for step in range(5)]
    delayed(tmp_path / "late", lag, monkeypatch, *kind, "trainer.eval_problems=0").run()
    found, expected = left_by(tmp_path / "ahead"), left_by(tmp_path / "late")
    evaluated, _ = found.pop("eval"), expected.pop("eval")
    assert found == expected
    assert [row["step"] for row in evaluated] == ([0, 2, 4, 5] if kind == EVALUATED else [])
    rows = read_jsonl(tmp_path / "ahead" / "metrics.jsonl")
    assert [row["policy/lag"] for row in rows] == [min(step, lag) for step in range(5)]
    assert all(row["time/wait"] >= 0 and row["time/hidden"] >= 0 for row in rows)
    assert {"policy/correction", "time/sample", "time/score"} <= rows[-1].keys()
    drawn = list(dict.fromkeys(row["problem"] for row in found["completions"]))
    assert sorted(drawn) == [min(drawn) + i for i in range(len(drawn))], "none is left out"
    if kind == FLAT:
        assert len(drawn) > 10
    if kind == LEVELS:
        assert len({row["env/math/level"] for row in rows}) > 1


def test_an_evaluation_has_the_present_weights(tmp_path: Path) -> None:
    args = ["trainer.eval_problems=3", "trainer.eval_every=2", "trainer.steps=3"]
    made(tmp_path / "a", 2, *args).run()
    row = read_jsonl(tmp_path / "a" / "eval.jsonl")[1]
    path = tmp_path / "a" / "checkpoints" / "step_000002"
    fresh = made(tmp_path / "b", 0, *args, f"model.path={path}", "model=hf")
    metrics, _ = fresh.evaluation()
    assert {"step": 2, **{k: pytest.approx(v, rel=1e-5) for k, v in metrics.items()}} == row


def test_a_run_that_is_made_longer_ends_as_one_that_was_longer_from_the_start(
    tmp_path: Path, straight: Callable[[int], dict[str, Any]]
) -> None:
    """Samples count when they are learnt, not when they are there."""
    short = made(tmp_path, 2, "trainer.max_samples=12")
    short.run()
    assert (short.done, short.source.drawn) == (3, 6)
    longer = made(tmp_path, 2, f"resume={tmp_path}")
    assert (longer.done, longer.source.drawn) == (3, 6)
    longer.run()
    assert left_by(tmp_path) == straight(2)


# What ends a run


def in_the_grading(
    trainer: Trainer, step: int, then: Callable[[Sequence[str]], list[Reward]]
) -> None:
    """Let something else come of the grading of a step; it is in the thread."""
    env = in_step(trainer).rollout.env.env  # type: ignore[attr-defined]
    grade, graded = env.reply_batch, 0

    def counted(problems: Sequence[Problem], episodes: Sequence[Sequence[Turn]]) -> list[Reply]:
        nonlocal graded
        graded += len(problems)
        if 4 * (step - 1) < graded <= 4 * step:
            rewards = then([episode[-1].action for episode in episodes])
            if rewards:
                return [Reply(reward=reward) for reward in rewards]
        found: list[Reply] = grade(problems, episodes)
        return found

    env.reply_batch = counted


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_kill_in_the_midst_of_an_update_changes_nothing(
    tmp_path: Path, straight: Callable[[int], dict[str, Any]]
) -> None:
    """Two steps are in flight then, one of them sampled with weights that are gone."""

    def live() -> None:
        trainer = made(tmp_path, 2)
        update, steps = trainer.agent.update, 0

        def killed(groups: Sequence[Group]) -> Any:
            nonlocal steps
            steps += 1
            if steps == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return update(groups)

        trainer.agent.update = killed  # type: ignore[method-assign]
        trainer.run()

    assert in_a_child(live) == -signal.SIGKILL
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    made(tmp_path, 2, f"resume={tmp_path}").run()
    assert left_by(tmp_path) == straight(2)


def sigterm(answers: Sequence[str]) -> list[Reward]:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    return []


@pytest.mark.parametrize("step", [1, 4])
def test_sigterm_lets_what_is_being_sampled_end_and_saves_it(
    step: int, tmp_path: Path, straight: Callable[[int], dict[str, Any]]
) -> None:
    trainer = made(tmp_path, 2)
    in_the_grading(trainer, step, sigterm)
    trainer.run()
    assert trainer.stop.terminated
    assert trainer.done < 5
    assert trainer.checkpoints.last.resolve().name == f"step_{trainer.done:06d}"
    made(tmp_path, 2, f"resume={tmp_path}").run()
    assert left_by(tmp_path) == straight(2)


@pytest.mark.parametrize("groups", [1, 2])
def test_what_is_graded_wrongly_after_sigterm_is_not_saved(
    groups: int,
    tmp_path: Path,
    straight: Callable[[int], dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The graders may have been ended, too. The steps since the last checkpoint are made again.

    One of two groups is not enough to stop a run, both are.
    """
    trainer, broken_ones = made(tmp_path, 1), 0

    def broken(answers: Sequence[str]) -> list[Reward]:
        nonlocal broken_ones
        sigterm(answers)
        broken_ones += 1
        failed = broken_ones <= groups
        return [Reward(valid=False, error="the sandbox was killed") for _ in answers if failed]

    in_the_grading(trainer, 4, broken)
    trainer.run()
    assert trainer.checkpoints.last.resolve().name == "step_000002"
    assert f"not saved after step {trainer.done}: sampling ahead was interrupted" in caplog.text
    made(tmp_path, 1, f"resume={tmp_path}").run()
    assert left_by(tmp_path) == straight(1)


def test_a_failing_grader_stops_the_run_at_its_step_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = made(tmp_path, 2)
    failed = [Reward(valid=False, error="sandbox down")]
    in_the_grading(trainer, 4, lambda answers: failed * len(answers))
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(RunStopped, match=r"of step 4 are invalid.*sandbox down"),
    ):
        trainer.run()
    assert trainer.checkpoints.last.resolve().name == "step_000003"
    assert "step 4 failed and is sampled again after a resume: with newer weights" in caplog.text
    made(tmp_path, 2, f"resume={tmp_path}").run()
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["policy/lag"]) for row in rows] == [
        *((1, 0), (2, 1), (3, 2)),
        *((4, 0), (5, 1)),
    ]


def test_an_error_of_the_update_ends_what_is_being_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = made(tmp_path, 1, "sampler.max_new_tokens=64", "trainer.prompts_per_step=8")

    def broken(groups: Sequence[Group]) -> Any:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(trainer.agent, "update", broken)
    with pytest.raises(RuntimeError, match="the device is lost"):
        trainer.run()
    assert isinstance(trainer.source, Ahead)
    (future,) = [begun.future for begun in trainer.source._begun]
    assert future.cancelled() or isinstance(future.exception(), StopNow)


# The model itself samples, in a process


@pytest.mark.slow
def test_the_process_samples_as_the_run_would_and_its_end_is_one_line(
    tmp_path: Path, straight: Callable[[int], dict[str, Any]]
) -> None:
    trainer = made(tmp_path, 1, sampler="torch")
    sampler = trainer.sampler
    assert isinstance(sampler, SamplerProcess)
    trainer._run()  # not `run`, which closes the sampler
    assert left_by(tmp_path) == straight(1)
    assert sampler._process.pid is not None
    os.kill(sampler._process.pid, signal.SIGKILL)
    trainer.cfg.steps = 7
    with pytest.raises(ProcessLost) as caught:
        trainer.run()
    assert str(caught.value) == (
        "the sampling process has ended (signal 9, which the system sends where memory runs "
        "out); resume=auto continues from the last checkpoint."
    )
    assert not sampler._process.is_alive()


# What is refused


def test_a_sampler_has_to_say_that_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(beside.BesidePlugin, "ahead")
    with pytest.raises(ConfigError) as caught:
        made(tmp_path, 1)
    assert str(caught.value) == (
        "trainer.lag=1: sampler=beside does not sample while the policy is updated. Allowed: "
        "trainer.lag=0."
    )


def test_several_processes_and_a_negative_lag_are_refused(tmp_path: Path) -> None:
    cfg = compose_run([*SMALL, "trainer.lag=2"])
    with pytest.raises(ConfigError) as caught:
        build(cfg, tmp_path, make_envs(cfg), Processes(0, 2))
    assert str(caught.value) == (
        "trainer.lag=2 in a run of 2 processes. Allowed: trainer.lag=0, or a run of one process."
    )
    with pytest.raises(ConfigError, match=r"^trainer\.lag=-1\. Allowed: 0 or more\.$"):
        compose_run([*SMALL, "trainer.lag=-1"])


def test_a_lag_is_decisive() -> None:
    assert compose_run([*SMALL, "trainer.lag=2"]).decisive()["trainer.lag"] == 2


def test_groups_come_back_as_they_were_from_text() -> None:
    turn = Turn(action="a", observation="\ud800", reward=0.1)
    group = Group(
        key=2**62,
        prompt="p",
        prompt_ids=(1, 2),
        completions=(
            Completion(text="t", token_ids=(3, 4), logprobs=(-0.1, float("-inf"))),
            Completion(
                text="",
                mask=(True, False),
                turns=(turn, turn),
                turn_lengths=(1, 1),
                finish_reason="length",
            ),
        ),
        rewards=(
            Reward(parts={"a": 1 / 3}, weights={"a": 2.0}, note="close"),
            Reward(valid=False, error="down"),
        ),
        meta={"level": 1, "names": ["a"], "more": None},
        version=7,
    )
    assert from_text(to_text([group, group])) == [group, group]
    assert json.loads(to_text([])) == []
