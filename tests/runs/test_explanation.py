"""What `explain` prints: a hand calculation from it gives the run's own numbers, to 1e-6."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from grpo_envs.errors import ConfigError
from grpo_envs.report import write_report
from grpo_envs.runs.explanation import Place, as_text, explain
from grpo_envs.runs.folder import RunFolder
from grpo_envs.runs.record import Record, read_record
from tests.support import forked

SIZE, EPOCHS, BETA, LOW, HIGH = 6, 2, 0.05, 0.02, 0.03
TINY_RUN = [
    *("trainer.steps=1", "trainer.prompts_per_step=1", "trainer.eval_problems=0"),
    *(f"agent.group_size={SIZE}", f"agent.epochs={EPOCHS}", "agent.warmup_steps=0"),
    *(f"agent.loss.beta={BETA}", f"agent.loss.clip_low={LOW}", f"agent.loss.clip_high={HIGH}"),
    *("agent.lr=1e-4", "agent.log_tokens=1", "sampler.max_new_tokens=40"),
    *("logger=files", "hydra.run.dir=run"),
]
"""The one group is the whole step: its numbers are those of metrics.jsonl."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Record:
    cwd = tmp_path_factory.mktemp("explained")
    done = forked.run(cwd, "grpo_envs.run", *TINY_RUN)
    assert done.returncode == 0, done.stderr
    return read_record(cwd / "run")


def printed(run: Record, **place: Any) -> str:
    return as_text([*explain(run, Place(**{"step": 1, **place}))])


def table(text: str, first: str) -> list[dict[str, str]]:
    """The table in a printed text whose header begins with a word."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if re.match(rf"{first} +\w", line))
    header = re.split(r" {2,}", lines[start])
    rows = []
    for line in lines[start + 1 :]:
        cells = re.split(r" {2,}", line)
        if not cells[0].isdigit():
            break
        rows.append(dict(zip(header, cells, strict=False)))
    return rows


def by_hand(rows: Sequence[Mapping[str, str]], advantage: float) -> list[dict[str, float]]:
    """The terms of each token, from log-probabilities and the advantage alone."""
    found = []
    for row in rows:
        old, new, ref = (float(row[f"log p {name}"]) for name in ("old", "new", "ref"))
        ratio, y = math.exp(new - old), ref - new
        bound = min(max(ratio, 1 - LOW), 1 + HIGH)
        loss = -min(ratio * advantage, bound * advantage)
        found.append(
            {
                "ratio": ratio,
                "KL": math.expm1(y) - y,
                "loss": loss,
                "clipped": float(loss > -ratio * advantage + 1e-12),
                "weight": 1 / (SIZE * len(rows)),
            }
        )
    return found


def test_a_hand_calculation_gives_the_numbers_of_the_run(run: Record) -> None:
    members = table(printed(run), "member")
    rewards = [float(row["reward"]) for row in members]
    assert len(set(rewards)) > 1, "a zero-variance group shows nothing"
    advantages = [(r - fmean(rewards)) / (stdev(rewards) + 1e-4) for r in rewards]
    assert [float(row["advantage"]) for row in members] == pytest.approx(advantages, abs=1e-6)
    (told,) = re.findall(r"^the group: n=6 mean=(\S+) std=(\S+),", printed(run), re.MULTILINE)
    assert [float(x) for x in told] == pytest.approx([fmean(rewards), stdev(rewards)], abs=1e-6)
    updates = []
    for update in range(1, EPOCHS + 1):
        tokens = []
        for member, advantage in enumerate(advantages):
            shown = table(printed(run, member=member, update=update), "t")
            tokens += (hand := by_hand(shown, advantage))
            for row, terms in zip(shown, hand, strict=True):
                for name, value in terms.items():
                    assert float(row[name]) == pytest.approx(value, abs=1e-6), name
        updates.append(tokens)
    (metrics,) = run.steps
    for name, column in {"loss/policy": "loss", "loss/kl": "KL", "loss/clipped": "clipped"}.items():
        means = [fmean(token[column] for token in tokens) for tokens in updates]
        assert metrics[name] == pytest.approx(fmean(means), abs=1e-6), name
    totals = [
        math.fsum(t["weight"] * (t["loss"] + BETA * t["KL"]) for t in tokens) for tokens in updates
    ]
    assert metrics["loss/total"] == pytest.approx(fmean(totals), abs=1e-6)
    assert metrics["loss/clipped"] > 0


def test_it_says_what_it_divides_by_and_what_there_is_not(run: Record) -> None:
    text = printed(run, update=1)
    assert "divided by n - 1 (G - 1), as agent.advantage.ddof=1 says" in text
    assert "agent.advantage.name=standardized: (r - mean) / (std + eps)" in text
    assert "log p old is log p new: the first update after sampling" in text
    assert "agent.loss.kl=k3: expm1(y) - y with y = log pi_ref - log pi (GRPO" in text
    aggregate = "sequence_mean: 1 / (B L_i): the mean over a completion's tokens, then over"
    source = "(GRPO, arXiv 2402.03300, eq. 3.)"  # it is the docstring's second paragraph
    assert f"{aggregate} completions. {source}\n" in text


def test_places_that_are_not_there_are_one_line(run: Record) -> None:
    for place, message in (
        (Place(step=7), "--step=7. Allowed: 1 to 1."),
        (Place(step=1, group=1), "--group=1. Allowed: 0 to 0."),
        (Place(step=1, member=6), "--member=6. Allowed: 0 to 5."),
        (Place(step=1, update=3), "--update=3. Allowed: 1, 2."),
    ):
        with pytest.raises(ConfigError) as caught:
            list(explain(run, place))
        assert str(caught.value) == message


def test_the_report_shows_the_same_table(run: Record) -> None:
    out = run.path / "report.html"
    write_report([run], out)
    page = out.read_text(encoding="utf-8")
    assert "A group, token by token" in page
    for row in table(printed(run), "t"):
        assert f"<td>{row['log p new']}</td>" in page


def test_a_run_says_once_what_never_acts(tmp_path: Path) -> None:
    quick = ["trainer.steps=1", "trainer.prompts_per_step=2", "trainer.eval_problems=0"]
    quick += ["agent.group_size=2", "sampler.max_new_tokens=4", "logger=files", "agent=dr_grpo"]
    done = forked.run(tmp_path, "grpo_envs.run", *quick, "hydra.run.dir=run")
    assert done.stdout.count("has no effect: with one update per step") == 1
    assert done.stdout.count("there is no KL penalty. Seen: agent.loss.beta=0.") == 1
    run = read_record(tmp_path / "run")
    assert not (run.path / "tokens.jsonl").exists()
    text = printed(run)
    assert "tokens: not recorded (agent.log_tokens=0). agent.log_tokens=4 records 4 groups" in text
    assert "agent.advantage.name=centered: r - mean of the group" in text


def row_of(member: int, **more: Any) -> dict[str, Any]:
    """A row of completions.jsonl."""
    row = {"step": 1, "problem": 5, "prompt": "p", "parts": {"right": 1.0}, "reward": 1.0}
    return {**row, "valid": True, "advantage": 0.5, "tokens": 1, "member": member, **more}


def made(folder: Path, config: dict[str, Any], tokens: list[dict[str, Any]]) -> Record:
    run = RunFolder(folder)
    run.claim({"agent.group_size": 2, **config}, [])
    rows = [row_of(0), row_of(1, valid=False, reward=0.0, parts={}, advantage=0.0)]
    for name, lines in (("metrics", [{"step": 1}]), ("completions", rows), ("tokens", tokens)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return read_record(folder)


def test_an_agent_without_groups_or_a_reference_says_so(tmp_path: Path) -> None:
    terms = {"old": [-1.0], "new": [-1.0], "ratio": [1.0], "weight": [1.0], "loss/policy": [0.5]}
    row = {"step": 1, "group": 0, "member": 0, "update": 1, "tokens": ["\x1b[2J"], "terms": terms}
    text = printed(made(tmp_path, {"agent.name": "ppo"}, [row]))
    assert "agent.name=ppo compares no group: its advantages are of single tokens" in text
    assert "log p ref, KL: none, as agent.loss.beta=0 needs no reference" in text
    assert "invalid: no part of the mean, advantage 0" in text
    assert "\x1b" not in text


def test_penalties_are_taken_off_before_rewards_are_compared(tmp_path: Path) -> None:
    advantage = {"name": "centered", "eps": 1e-4, "ddof": 0}
    config = {f"agent.advantage.{key}": value for key, value in advantage.items()}
    terms = {"old": [-1.0], "new": [-1.0], "ratio": [1.0], "weight": [1.0], "loss/policy": [0.5]}
    row = {"step": 1, "group": 0, "member": 0, "update": 1, "tokens": ["a"], "terms": terms}
    text = printed(made(tmp_path, config, [{**row, "compared": [0.75]}]))
    assert table(text, "member")[0]["r"] == "0.75"
    assert "the group: n=1 mean=0.75" in text
    assert "divided by n (G), as agent.advantage.ddof=0 says" in text
