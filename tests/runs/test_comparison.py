"""Variants over seeds: numbers by hand, what is left out and said, and the tables of papers."""

import csv
import io
import json
import random
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_envs.compare import main
from grpo_envs.errors import ConfigError
from grpo_envs.report import write_report
from grpo_envs.report.__main__ import main as report_main
from grpo_envs.runs.comparison import Question, compare, read
from grpo_envs.runs.curves import ACCURACY, REWARD
from grpo_envs.runs.folder import RunFolder
from grpo_envs.runs.paper import FORMATS
from grpo_envs.runs.record import Record
from grpo_envs.runs.statistics import (
    band,
    interquartile_mean,
    interquartile_mean_over,
    mean_over,
    paired_difference,
)
from grpo_envs.runs.variants import setting
from grpo_envs.sweep_report import main as sweep_main

Values = Mapping[int, float]


def made(folder: Path, agent: str, seed: int, accuracy: float, **more: Any) -> Path:
    """The folder of a run that is done after `steps`."""
    steps, stopped = more.pop("steps", 8), more.pop("stopped", "")
    path = folder / f"agent-{agent}_seed-{seed}"
    config = {"seed": seed, "agent.name": "grpo", "agent.loss.beta": float(agent == "a"), **more}
    run = RunFolder(path)
    run.claim(config, [f"agent={agent}", f"seed={seed}"], {"choices": {"agent": agent}})
    rows = [{"step": i, "reward/mean": accuracy * i / steps} for i in range(1, steps + 1)]
    evals = [
        {"step": i, "eval/accuracy": accuracy * i / steps, "eval/ci95": 0.1} for i in (0, steps)
    ]
    for name, lines in (("metrics", rows), ("eval", evals)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    run.finish(steps, evals[-1], stopped)
    return path


def two_variants(folder: Path) -> list[Record]:
    a = {0: 0.50, 1: 0.60, 2: 0.55, 3: 0.65, 4: 0.70}
    b = {0: 0.60, 1: 0.65, 2: 0.70, 3: 0.70, 4: 0.75}
    return read(
        [made(folder, name, s, x) for name, of in (("a", a), ("b", b)) for s, x in of.items()]
    )


def test_the_mean_the_iqm_and_the_difference_are_those_by_hand(tmp_path: Path) -> None:
    found = compare(two_variants(tmp_path), Question(metrics=["eval/accuracy"], by=["agent"]))
    first, second = found.results
    assert (first.variant, first.runs, first.difference) == ("agent=a", 5, None)
    assert first.mean.mean == pytest.approx(0.60)
    assert first.iqm.mean == pytest.approx(0.60)  # 0.55, 0.60, 0.65
    assert second.iqm.mean == pytest.approx((0.65 + 0.70 + 0.70) / 3)
    assert second.difference is not None
    assert second.difference.mean == pytest.approx(0.08)
    assert second.difference.p == 2 / 32  # all five are positive
    assert first.mean.low < 0.60 < first.mean.high
    assert found.remarks == ["differ between the variants: agent.loss.beta (1.0, 0.0)"]


def test_a_metric_of_the_steps_is_a_mean_over_the_last_quarter(tmp_path: Path) -> None:
    runs = read([made(tmp_path, "a", 0, 0.8)])
    (result,) = compare(runs, Question(metrics=["reward/mean"])).results
    assert result.mean.mean == pytest.approx((0.7 + 0.8) / 2)


def test_the_sign_flip_test_agrees_with_counting() -> None:
    differences = [0.3, -0.1, 0.2, 0.4]
    total = abs(sum(differences))
    signs = [[1 if n >> i & 1 else -1 for i in range(4)] for n in range(16)]
    sums = [abs(sum(s * d for s, d in zip(each, differences, strict=True))) for each in signs]
    assert paired_difference(differences).p == sum(x >= total - 1e-12 for x in sums) / 16
    many = paired_difference([0.1, -0.05] * 12)
    assert 0 < many.p < 0.2  # signs at random
    assert paired_difference([0.0, 0.0, 0.0]).p == 1
    with pytest.raises(ValueError, match="1 pairs"):
        paired_difference([0.1])


def test_the_interquartile_mean_is_that_of_rliable() -> None:
    """Its definition: `scipy.stats.trim_mean(scores, 0.25, axis=None)` over all runs and tasks."""
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(3)
    for runs, tasks in ((3, 1), (5, 2), (4, 3), (9, 1)):
        scores = draw.normal(size=(runs, tasks))
        expected = stats.trim_mean(scores, 0.25, axis=None)
        assert interquartile_mean(scores.ravel()) == pytest.approx(expected)
        assert interquartile_mean_over(scores.T.tolist()).mean == pytest.approx(expected)


def test_the_bootstrap_is_stratified() -> None:
    """Each task has its own runs in every sample: tasks of constant values leave no doubt."""
    apart = mean_over([[0.0] * 3, [1.0] * 3])
    assert (apart.low, apart.high) == (0.5, 0.5)
    together = mean_over([[0.0] * 3 + [1.0] * 3])
    assert together.low < 0.5 < together.high


def test_the_intervals_of_many_runs_are_the_normal_ones() -> None:
    draw = random.Random(0)
    values = [draw.gauss(1.0, 0.5) for _ in range(400)]
    half = 1.96 * float(np.std(values)) / 20
    found = mean_over([values])
    assert found.half_width == pytest.approx(half, rel=0.06)
    (place,) = band([[value] for value in values])
    assert place.half_width == pytest.approx(half, rel=0.1)


def test_curves_of_several_runs_are_their_mean_with_a_band(tmp_path: Path) -> None:
    runs = two_variants(tmp_path)[:5]
    points = ACCURACY.points(runs)
    assert points.steps == [0, 8]
    assert points.values == pytest.approx([0.0, 0.60])
    assert points.low[1] < 0.60 < points.high[1]
    shorter = read([made(tmp_path / "more", "a", 9, 0.5, steps=4)])
    assert REWARD.points([*runs, *shorter]).steps == [1, 2, 3, 4]


def test_runs_that_cannot_be_compared_are_named(tmp_path: Path) -> None:
    runs = two_variants(tmp_path)
    paths = [run.path for run in runs]
    (paths[0] / "done.json").unlink()
    RunFolder(paths[1]).fail("no disk", [])
    made(tmp_path, "a", 2, 0.55, steps=4)
    lines = (paths[3] / "metrics.jsonl").read_text().replace("reward/mean", "reward/other")
    (paths[3] / "metrics.jsonl").write_text(lines)
    again = made(tmp_path / "again", "b", 0, 0.1)
    found = compare(read([*paths, again]), Question(metrics=["reward/mean"], by=["agent"]))
    told = [f"{Path(path).name}: {why}" for path, why in found.left_out.items()]
    assert told[:4] == [
        "agent-a_seed-0: cut off after step 8",
        "agent-a_seed-1: failed: no disk",
        "agent-a_seed-2: 4 steps, others 8",
        "agent-a_seed-3: no reward/mean",
    ]
    assert told[4].startswith("agent-b_seed-0: as ")
    assert told[4].endswith("agent-b_seed-0, seed=0 alike")
    a, b = found.results
    assert (a.runs, b.runs, b.pairs, b.difference) == (1, 5, 1, None)


def test_runs_that_a_limit_ended_are_compared_by_their_last_values_and_named(
    tmp_path: Path,
) -> None:
    two_variants(tmp_path)
    why = "trainer.target=0.9: eval/accuracy is 0.91"
    for seed, steps in ((0, 3), (1, 5), (2, 5)):
        made(tmp_path, "b", seed, 0.91, steps=steps, stopped=why)
    runs = read(sorted(tmp_path.iterdir()))
    found = compare(runs, Question(metrics=["eval/accuracy"], by=["agent"]))
    assert not found.left_out
    a, b = found.results
    assert (a.runs, b.runs, b.pairs) == (5, 5, 5)
    assert b.mean.mean == pytest.approx((3 * 0.91 + 0.70 + 0.75) / 5)
    assert f"agent-b_seed-0 (step 3, {why})" in found.ended
    assert "agent-b_seed-3" not in found.ended
    RunFolder(runs[0].path).finish(8, {}, "trainer.patience=2: no progress")
    again = compare(read([run.path for run in runs[:5]]), Question(metrics=["eval/accuracy"]))
    assert again.about_runs == again.ended


def last_evaluation(run: Path, line: str) -> None:
    """Write another last line of eval.jsonl."""
    first = (run / "eval.jsonl").read_text(encoding="utf-8").splitlines()[0]
    (run / "eval.jsonl").write_text(f"{first}\n{line}", encoding="utf-8")


def test_a_run_without_a_whole_last_evaluation_is_not_compared_by_an_earlier_one(
    tmp_path: Path,
) -> None:
    paths = [made(tmp_path, "a", seed, 0.5) for seed in range(6)]
    last_evaluation(paths[0], '{"step": 8, "eval/accur')  # cut off
    last_evaluation(paths[1], '{"step": 8, "eval/reward": 1.0}\n')  # nothing was graded
    last_evaluation(paths[2], '{"step": 8, "eval/accuracy": NaN}\n')
    (paths[3] / "eval.jsonl").unlink()
    (paths[4] / "metrics.jsonl").write_text("")
    found = compare(read(paths), Question(metrics=["eval/accuracy"]))
    assert [*found.left_out.values()] == [
        "its last evaluation is of step 0, not 8",
        "no eval/accuracy in its last evaluation",
        "eval/accuracy is nan",
        "no eval/accuracy",
        "no metrics.jsonl, or an empty one",
    ]
    (result,) = found.results
    assert (result.runs, result.mean.mean) == (1, 0.5)


def test_only_shared_seeds_are_paired_and_the_others_are_named(tmp_path: Path) -> None:
    a, b = {0: 0.1, 1: 0.5, 2: 0.6}, {1: 0.6, 2: 0.8, 3: 0.9}
    paths = [made(tmp_path, n, s, x) for n, of in (("a", a), ("b", b)) for s, x in of.items()]
    found = compare(read(paths), Question(metrics=["eval/accuracy"], by=["agent"]))
    result = found.results[1]
    assert result.difference is not None
    assert (result.runs, result.pairs) == (3, 2)
    assert result.difference.mean == pytest.approx((0.1 + 0.2) / 2)  # of the means: 0.367
    assert found.remarks[-1] == (
        "agent=b minus agent=a is over the pairs of seed=1, seed=2; "
        "without a pair: seed=3 of agent=b, seed=0 of agent=a"
    )


def test_tasks_that_one_variant_lacks_are_in_no_pair(tmp_path: Path) -> None:
    values = {("math", "a"): 0.2, ("code", "a"): 0.9, ("math", "b"): 0.3}
    paths = [
        made(tmp_path / env, agent, seed, value, **{"env.name": env})
        for (env, agent), value in values.items()
        for seed in (0, 1)
    ]
    question = Question(metrics=["eval/accuracy"], by=["agent"], tasks="env")
    found = compare(read(paths), question)
    difference = found.results[1].difference
    assert difference is not None
    assert difference.mean == pytest.approx(0.1)  # not 0.3 less the mean of 0.2 and 0.9
    said = "warning: agent=b and agent=a do not both have code: pairs compare math"
    assert said in found.remarks


def test_a_key_that_older_runs_do_not_have_is_a_variant_of_its_own(tmp_path: Path) -> None:
    paths = [made(tmp_path / "old", "a", seed, 0.5) for seed in (0, 1)]
    paths += [made(tmp_path / "new", "a", s, 0.6, **{"agent.new": 2}) for s in (0, 1)]
    found = compare(read(paths), Question(metrics=["eval/accuracy"], by=["agent.new"]))
    assert [v.name for v in found.variants] == ["agent.new=-", "agent.new=2"]
    assert found.remarks == ["differ between the variants: agent.new (null, 2)"]


def test_a_resumed_or_a_named_run_is_no_variant_of_its_own(tmp_path: Path) -> None:
    paths = [made(tmp_path, "a", seed, 0.5) for seed in (0, 1, 2)]
    for path, word in zip(paths, ("resume=x", "run.name=b", "logger=files"), strict=True):
        note = json.loads((path / "config.json").read_text(encoding="utf-8"))
        note["overrides"].append(word)
        (path / "config.json").write_text(json.dumps(note), encoding="utf-8")
    (result,) = compare(read(paths), Question(metrics=["eval/accuracy"])).results
    assert (result.variant, result.runs) == ("all runs", 3)


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    run = made(tmp_path, "a", 0, 0.5)
    last_evaluation(run, "half\n")
    with pytest.raises(ConfigError, match=r"eval\.jsonl, line 2: not JSON \(Expecting value"):
        read([run])


def test_keys_that_differ_beside_those_asked_for_are_a_warning(tmp_path: Path) -> None:
    paths = [made(tmp_path, "a", s, 0.5 + s / 10) for s in (0, 1)]
    paths += [made(tmp_path, "b", s, 0.5, **{"trainer.lag": 1}) for s in (0, 1)]
    found = compare(read(paths), Question(metrics=["eval/accuracy"], by=["agent"]))
    assert found.remarks[-1] == "warning: differ beside --by agent: trainer.lag (null, 1)"
    paths[0] = made(tmp_path, "a", 0, 0.5, **{"env.level": 2})
    found = compare(read(paths), Question(metrics=["eval/accuracy"], by=["agent"]))
    (line,) = [x for x in found.remarks if "--over" in x]
    assert line == "warning: differs beside --over seed: env.level=2 and null in agent=a"


def test_tasks_are_strata_and_pairs_are_seeds(tmp_path: Path) -> None:
    paths = [
        made(
            tmp_path / env,
            agent,
            seed,
            base + seed / 100 + (agent == "b") / 10,
            **{"env.name": env},
        )
        for env, base in (("math", 0.2), ("code", 0.6))
        for agent in "ab"
        for seed in (0, 1, 2)
    ]
    question = Question(metrics=["eval/accuracy"], by=["agent"], tasks="env")
    found = compare(read(paths), question)
    assert [(result.runs, result.pairs) for result in found.results] == [(6, 0), (6, 3)]
    difference = found.results[1].difference
    assert difference is not None
    assert difference.mean == pytest.approx(0.1)
    assert found.results[0].mean.high < 0.45  # without strata it would reach 0.6
    assert not [line for line in found.remarks if "env.name" in line]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (
            {"metrics": ["eval/acuracy"]},
            "--metric=eval/acuracy: no run has it. Did you mean 'eval/accuracy'?",
        ),
        ({"by": ["agnt"]}, "--by=agnt: no run has such a key. Did you mean 'agent'?"),
        ({"over": ["sed"]}, "--over=sed: no run has such a key. Did you mean 'seed'?"),
        ({"metrics": []}, "--metric=. Allowed: names, separated by commas."),
        ({"over": []}, "--over=. Allowed: names, separated by commas."),
        ({"by": ["seed"]}, "--by=seed with --over=seed. Allowed: one of them."),
        ({"baseline": "c"}, "--baseline=c. Allowed: agent=a, agent=b."),
    ],
)
def test_a_mistake_names_the_nearest(
    question: dict[str, Any], message: str, tmp_path: Path
) -> None:
    asked = Question(**{"metrics": ["eval/accuracy"], **question})
    with pytest.raises(ConfigError) as caught:
        compare(two_variants(tmp_path), asked)
    assert str(caught.value).startswith(message)


def test_a_key_is_an_option_a_setting_or_an_override(tmp_path: Path) -> None:
    (run,) = read([made(tmp_path, "a", 3, 0.5)])
    assert setting(run, "agent") == "a"
    assert setting(run, "seed") == "3"
    assert setting(run, "agent.loss.beta") == "1.0"
    old = Record(Path("old"), [], [], {"agent.name": "grpo"}, {}, "done")
    assert setting(old, "agent") == "grpo"
    assert setting(old, "nothing") == ""


def test_the_tables_of_papers_hold_the_same_numbers(tmp_path: Path) -> None:
    question = Question(metrics=["eval/accuracy", "reward/mean"], by=["agent"], baseline="b")
    found = compare(two_variants(tmp_path), question)
    marked = FORMATS["markdown"](found).splitlines()
    assert marked[0].startswith("| agent | metric | n | mean [95 %] | IQM [95 %] | minus b |")
    assert marked[2].startswith("| b | eval/accuracy | 5 | 0.680 [0.6")
    tex = FORMATS["latex"](found)
    assert tex.splitlines()[:2] == [r"\begin{tabular}{llllllll}", r"\toprule"]
    assert r"mean [95 \%]" in tex
    assert tex.count(r"\\") == 5
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](found))))
    assert [row["variant"] for row in rows] == ["agent=b", "agent=a"] * 2
    assert float(rows[1]["difference"]) == pytest.approx(-0.08)
    assert float(rows[1]["p"]) == 2 / 32
    assert rows[0]["difference"] == ""


def test_a_report_of_several_runs_compares_them_over_seeds(tmp_path: Path) -> None:
    runs = two_variants(tmp_path)
    write_report(runs, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>Over seeds: held-out accuracy, greedy</h2>" in page
    assert "<th>minus a</th>" in page
    assert "left out" not in page
    write_report(runs[:1], tmp_path / "report.html")
    assert "Over seeds" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["report", "sweep_report"])
def test_runs_that_are_not_over_are_named_on_the_page_and_on_the_terminal(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [run.path for run in two_variants(tmp_path)]
    (paths[0] / "done.json").unlink()
    RunFolder(paths[6]).fail("no <disk>", [])
    RunFolder(paths[9]).finish(8, {}, "trainer.max_tokens=9: 9 tokens")
    monkeypatch.chdir(tmp_path)
    runs = [path.name for path in paths]
    options = (
        [".", "--by", "eval/accuracy"]
        if command == "sweep_report"
        else [*runs, "--out", "report.html"]
    )
    monkeypatch.setattr(sys, "argv", [command, *options])
    by_name = {"report": report_main, "sweep_report": sweep_main}
    by_name[command]()
    first, second = "agent-a_seed-0 (cut off after step 8)", "agent-b_seed-1 (failed: no <disk>)"
    ended = "agent-b_seed-4 (step 8, trainer.max_tokens=9: 9 tokens)"
    line = (
        f"left out of the comparison: {first}; {second}. "
        f"warning: ended by a limit, compared by their last values: {ended}"
    )
    assert capsys.readouterr().err.splitlines() == [line]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count(f"<p>{escape(line)}</p>") == 1


def test_the_command_prints_a_table_and_draws_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    two_variants(tmp_path / "sweep")
    picture = tmp_path / "bands.png"
    args = [str(tmp_path / "sweep"), "--metric", "eval/accuracy", "--out", str(picture)]
    monkeypatch.setattr(sys, "argv", ["compare", *args, "--format", "csv"])
    main()
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].startswith("agent=a,eval/accuracy,5,0.6,")
    assert "differ between the variants: agent.loss.beta" in printed.err
    assert "sign-flip test" in printed.err
    assert picture.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(sys, "argv", ["compare", args[0], "--out", f"{picture}.pgn"])
    with pytest.raises(SystemExit):
        main()
    assert "the format of --out=pgn. Allowed: " in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["compare", *args, "--format", "word"])
    with pytest.raises(SystemExit):
        main()
    assert "--format=word. Allowed: text, markdown, latex, csv." in capsys.readouterr().err
