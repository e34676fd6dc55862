"""A sampler of another package in a run: who finds it, and when it gets the weights."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError, PluginError, UnknownName
from grpo_envs.runs.rows import read_jsonl
from grpo_envs.training.decoding import (
    evaluation_decoding,
    require_scored_as_sampled,
    training_decoding,
)
from grpo_envs.types import Group
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding, require_sampler
from tests.training.test_trainer import trainer

PACKAGE = """
from grpo_envs.config.model import SamplerConfig

calls = []


class Noting:
    Config = SamplerConfig

    @classmethod
    def make(cls, cfg, parts):
        from grpo_policy.samplers.torch import TorchSampler

        class Sampler(TorchSampler):
            def sync(self, policy):
                calls.append(("sync", policy.version))
                super().sync(policy)

            def metrics(self):
                return {"sampler/version": float(self.version)}

            def close(self):
                calls.append(("close", self.version))

        return Sampler(parts.policy)
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is asked of the sampler `noting`, which is installed meanwhile."""
    info = tmp_path / "site" / "noting-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[grpo_envs.samplers]\nnoting = noting_sampler:Noting\n")
    (info.parent / "noting_sampler.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(info.parent)
    import noting_sampler  # type: ignore[import-not-found]

    noting_sampler.calls.clear()
    found: list[tuple[str, int]] = noting_sampler.calls
    return found


def once(calls: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Weights that are given twice are the same weights."""
    return [call for call, _ in groupby(calls)]


def test_it_gets_the_weights_after_each_update_and_is_closed(
    tmp_path: Path, calls: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("trainer.eval_problems=0", "agent.minibatches=2", 'sampler.name="noting"')
    made = trainer(tmp_path, "trainer.steps=2", *small)
    versions: list[int] = []
    update = made.agent.update

    def noted(groups: Sequence[Group]) -> Any:
        versions.extend(group.version for group in groups)
        return update(groups)

    monkeypatch.setattr(made.agent, "update", noted)
    made.run()
    assert versions == [0, 0, 2, 2]  # two updates a step
    assert once(calls) == [("sync", 0), ("sync", 2), ("sync", 4), ("close", 4)]
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["sampler/version"] for line in lines] == [2.0, 4.0]

    calls.clear()
    trainer(tmp_path, "trainer.steps=3", *small, f"resume={tmp_path}").run()
    assert once(calls) == [("sync", 1), ("sync", 3), ("close", 3)], "the first are restored weights"


def test_it_is_closed_where_the_run_fails(
    tmp_path: Path, calls: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tmp_path, "trainer.steps=2", "trainer.eval_problems=0", 'sampler.name="noting"')

    def broken(groups: Sequence[Group]) -> Any:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(made.agent, "update", broken)
    with pytest.raises(RuntimeError, match="the device is lost"):
        made.run()
    assert once(calls) == [("sync", 0), ("close", 0)]


def test_what_distorts_the_distribution_is_for_evaluation(tmp_path: Path, tiny: Policy) -> None:
    with pytest.raises(ConfigError) as caught:
        trainer(tmp_path, "sampler.top_p=0.9", "sampler.top_k=20")
    assert str(caught.value) == (
        "sampler.top_p=0.9, sampler.top_k=20 in training: tokens would come from another "
        "distribution than the one that an update scores them under. Allowed: the defaults, and "
        "for evaluation 'trainer.eval_sampling={top_p: 0.9, top_k: 20}'."
    )
    cfg = compose_run(
        ["trainer.eval_sampling={min_p: 0.1}", "sampler.stop=[x]", "sampler.max_new_tokens=9"]
    )
    require_scored_as_sampled(cfg)
    plain = Decoding(max_new_tokens=9, stop=("x",))
    assert training_decoding(cfg, tiny) == plain
    assert evaluation_decoding(cfg, tiny, 0.5) == replace(plain, temperature=0.5, min_p=0.1)
    asked = compose_run(["sampler.top_p=0.9", "trainer.eval_max_new_tokens=7"])  # of `evaluate`
    expected = Decoding(max_new_tokens=7, temperature=0.0, top_p=0.9)
    assert evaluation_decoding(asked, tiny, 0.0) == expected


def test_a_run_can_sample_with_stops_and_evaluate_with_cuts(tmp_path: Path) -> None:
    keys = (
        'sampler.stop=["</answer>"]',
        'trainer.eval_sampling={"top_k": 1}',
        "trainer.eval_samples=2",
    )
    small = ("trainer.steps=1", "trainer.eval_problems=3")
    made = trainer(tmp_path, *small, *keys, "sampler.thinking_budget=4")
    made.run()
    rows = read_jsonl(tmp_path / "eval_completions.jsonl")
    greedy = {row["problem"]: row["text"] for row in rows if row["decoding"] == "greedy"}
    assert all(row["text"] == greedy[row["problem"]] for row in rows if row["step"] == 0)
    answers = read_jsonl(tmp_path / "completions.jsonl")
    assert any(row["text"].endswith("</answer>") for row in answers)
    assert all(row["text"].count("</answer>") <= 1 for row in answers)
    assert read_jsonl(tmp_path / "metrics.jsonl")[0]["policy/sample_gap"] < 1e-5


class Older:
    """A sampler as it was written before conversations kept their caches."""

    version = 0

    def sync(self, policy: Policy) -> None: ...

    def sample(self, prompts: Any, seeds: Any, how: Any, *, tick: Any = None) -> Any: ...

    def metrics(self) -> dict[str, float]:
        return {}

    def close(self) -> None: ...


@pytest.mark.usefixtures("calls")
def test_an_older_sampler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import noting_sampler

    monkeypatch.setattr(noting_sampler.Noting, "make", lambda cfg, parts: Older())
    with pytest.raises(PluginError) as caught:
        trainer(tmp_path, 'sampler.name="noting"')
    assert str(caught.value) == (
        "sampler=noting: Older lacks release(), keep in sample(). Allowed: all of "
        "grpo_policy.samplers.Sampler."
    )


def test_a_sampler_that_takes_anything_is_no_older_one() -> None:
    class Passing(Older):
        def sample(self, *given: Any, **more: Any) -> Any: ...

        def release(self) -> None: ...

    require_sampler("passing", Passing())


@pytest.mark.usefixtures("calls")
def test_a_sampler_is_not_asked_for_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        trainer(tmp_path, 'sampler.name="noting"', 'trainer.eval_sampling={"top_p": 0.9}')
    assert str(caught.value) == (
        "sampler=noting does not know top_p. Allowed: temperature, max_new_tokens."
    )


def test_one_that_is_not_installed_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnknownName) as caught:
        trainer(tmp_path, 'sampler.name="troch"')
    assert str(caught.value) == "no sampler 'troch'. Allowed: torch, vllm. Did you mean 'torch'?"
