"""The terms that `agent.log_tokens` notes are those of the metrics, for every preset."""

from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
from accelerate import Accelerator

from grpo_agent.agent import GrpoAgent
from grpo_agent.config import GrpoConfig
from grpo_agent.remarks import remarks
from grpo_envs.config.composition import compose_run
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from tests.agents.test_agent import EVERY_PRESET, MAX_TOKENS, groups


def noting(policy: Policy, cfg: GrpoConfig, count: int) -> GrpoAgent:
    cfg = replace(cfg, log_tokens=count, lr=1e-2, warmup_steps=0)
    return GrpoAgent(policy, cfg, Accelerator(cpu=True), Decoding(max_new_tokens=MAX_TOKENS))


@EVERY_PRESET
def test_the_terms_of_a_preset_are_those_of_its_metrics(name: str, random_policy: Policy) -> None:
    cfg = replace(compose_run([f"agent={name}"]).agent, minibatches=1, epochs=2)
    given = groups(random_policy)
    agent = noting(random_policy, cfg, len(given))
    metrics, _ = agent.update(given)
    rows = agent.term_log.rows()
    assert len(rows) == 2 * sum(len(group.completions) for group in given)
    for metric in [name for name in metrics if name in rows[0]["terms"]]:
        first, later = (
            [x for row in rows if row["update"] == u for x in row["terms"].get(metric, ())]
            for u in (1, 2)
        )
        updates = [fmean(values) for values in (first, later) if values]  # the gap has one only
        assert metrics[metric] == pytest.approx(fmean(updates), abs=1e-9), metric
    assert ("reference" in rows[0]["terms"]) == (cfg.loss.beta > 0)
    assert {x for row in rows if row["update"] == 1 for x in row["terms"]["ratio"]} == {1.0}
    assert any(abs(x - 1) > 1e-6 for row in rows for x in row["terms"]["ratio"])
    formulas = agent.term_log.formulas
    assert formulas["agent.advantage.name"].startswith(f"{cfg.advantage.name}: ")
    assert all(text.count(":") and len(text) > 20 for text in formulas.values())


def test_groups_are_noted_evenly_over_the_step(random_policy: Policy) -> None:
    given = groups(random_policy)
    cfg = GrpoConfig(minibatches=3)
    agent = noting(random_policy, cfg, 2)
    for _ in range(2):  # a step forgets the one before
        agent.update(given)
    rows = agent.term_log.rows()
    size = len(given[0].completions)
    assert [(row["group"], row["member"]) for row in rows] == [
        (group, member) for group in (0, 1) for member in range(size)
    ]
    for row in rows:
        completion = given[row["group"]].completions[row["member"]]
        assert row["terms"]["sampled"] == pytest.approx(list(completion.logprobs), abs=1e-6)
        assert row["compared"] == [given[row["group"]].rewards[row["member"]].total]
    assert noting(random_policy, cfg, 0).term_log.rows() == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ["has no effect"]),
        ({"epochs": 2}, []),
        ({"minibatches": 2}, []),
        ({"epochs": 2, "beta": 0.0}, ["no KL penalty"]),
        ({"beta": 0.0}, ["has no effect", "no KL penalty"]),
    ],
)
def test_what_never_acts_is_said(changes: dict[str, Any], said: list[str]) -> None:
    cfg = GrpoConfig(**{k: v for k, v in changes.items() if k != "beta"})
    cfg.loss.beta = changes.get("beta", cfg.loss.beta)
    found = [*remarks(cfg)]
    assert len(found) == len(said)
    assert all(words in line for words, line in zip(said, found, strict=True))
