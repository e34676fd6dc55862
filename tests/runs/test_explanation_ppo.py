"""What `explain` prints of PPO with a critic: GAE, returns and losses by hand, to 1e-6."""

import math
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest

from grpo_envs.report import write_report
from grpo_envs.runs.record import Record, read_record
from tests.runs.test_explanation import printed, table
from tests.support import forked

GROUPS, GAMMA, LAM, CLIP, COEF, BETA = 4, 0.97, 0.9, 0.05, 0.5, 0.1
PPO_RUN = [
    *("agent=ppo", "trainer.steps=2", f"trainer.prompts_per_step={GROUPS}"),
    *("trainer.eval_problems=0", "agent.warmup_steps=0", "agent.minibatches=2"),
    *(f"agent.gamma={GAMMA}", f"agent.lam={LAM}", f"agent.loss.beta={BETA}", "agent.lr=1e-3"),
    *(f"agent.critic.clip={CLIP}", f"agent.critic.coef={COEF}", f"agent.log_tokens={GROUPS}"),
    *("sampler.max_new_tokens=12", "logger=files", "hydra.run.dir=run"),
]
"""All completions of a step are noted: their numbers are those of metrics.jsonl."""
Token = dict[str, float]


@pytest.fixture(scope="module", params=["own", "shared"])
def run(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Record:
    cwd = tmp_path_factory.mktemp("explained")
    done = forked.run(cwd, "grpo_envs.run", *PPO_RUN, f"agent.critic.body={request.param}")
    assert done.returncode == 0, done.stderr
    return read_record(cwd / "run")


def shown(run: Record, group: int) -> tuple[str, list[Token]]:
    """The second step: its reference is another policy than the one that sampled."""
    text = printed(run, step=2, group=group)
    return text, [
        {name: float(x) for name, x in row.items() if name != "token"} for row in table(text, "t")
    ]


def gae(rewards: list[float], values: list[float]) -> list[float]:
    found = []
    for t in range(len(rewards)):
        later = [*values[t + 1 :], 0.0]
        deltas = [
            r + GAMMA * v_next - v
            for r, v_next, v in zip(rewards[t:], later, values[t:], strict=True)
        ]
        found.append(math.fsum((GAMMA * LAM) ** k * delta for k, delta in enumerate(deltas)))
    return found


def value_loss(token: Token) -> float:
    new, old, wanted = token["V new"], token["V old"], token["return"]
    near = old + min(max(new - old, -CLIP), CLIP)
    return max((new - wanted) ** 2, (near - wanted) ** 2) / 2


def test_a_hand_calculation_gives_the_numbers_of_the_run(run: Record) -> None:
    everyone: list[Token] = []
    for group in range(GROUPS):
        text, tokens = shown(run, group)
        (member,) = table(text, "member")
        rewards = [
            -BETA * (token["log p sampled"] - token["log p ref"]) for token in tokens
        ]  # k1, see docs/grpo.md
        rewards[-1] += float(member["reward"])
        assert [token["reward"] for token in tokens] == pytest.approx(rewards, abs=1e-6)
        raw = gae(rewards, [token["V old"] for token in tokens])
        assert [token["A"] for token in tokens] == pytest.approx(raw, abs=1e-6)
        for token, advantage in zip(tokens, raw, strict=True):
            assert token["return"] == pytest.approx(advantage + token["V old"], abs=1e-6)
            assert token["V loss"] == pytest.approx(value_loss(token), abs=1e-6)
        everyone += tokens
        advantages = [token["advantage"] for token in tokens]
        assert float(member["advantage"]) == pytest.approx(fmean(advantages), abs=1e-5)
    raw = [token["A"] for token in everyone]
    whitened = [(a - fmean(raw)) / (pstdev(raw) + 1e-8) for a in raw]
    assert [token["advantage"] for token in everyone] == pytest.approx(whitened, abs=1e-6)
    numbers = [float(x.split("=")[1]) for x in line(text, "the step: ").split(", ")]
    assert numbers == pytest.approx([fmean(raw), pstdev(raw)], abs=1e-6)
    metrics = run.steps[-1]
    for name, column in {"critic/value": "V old", "critic/return": "return"}.items():
        assert metrics[name] == pytest.approx(fmean(t[column] for t in everyone), abs=1e-6)
    parts = [everyone_of(run, groups) for groups in ((0, 1), (2, 3))]  # a minibatch each
    losses = [fmean(token["V loss"] for token in part) for part in parts]
    assert metrics["critic/loss"] == pytest.approx(fmean(losses), abs=1e-6)


def everyone_of(run: Record, groups: tuple[int, ...]) -> list[Token]:
    return [token for group in groups for token in shown(run, group)[1]]


def line(text: str, first: str) -> str:
    (found,) = [x for x in text.splitlines() if x.startswith(first)]
    return found


def test_it_prints_the_formulas_of_advantages_and_of_the_values(run: Record) -> None:
    text, _ = shown(run, 0)
    assert "agent.name=ppo compares no group" in text
    assert line(text, "agent.lam=0.9: A_t = sum_k (gamma lambda)^k delta_{t+k}, delta_t = r_t +")
    assert "[gamma=0.97, lam=0.9]" in text
    assert line(text, "agent.whiten=true: (A - mean) / (std + 1e-8)")
    assert line(text, "agent.loss.kl_in=reward: the reward of each token (B, T): -beta KL_t")
    assert line(text, "agent.critic.clip=0.05: 1/2 max((V - R)^2, (V_clip - R)^2)")


def test_the_report_shows_the_values(run: Record, tmp_path: Path) -> None:
    write_report([run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<th>V old</th>" in page
    assert "<th>return</th>" in page
