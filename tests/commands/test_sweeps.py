"""Sweeps as a user runs them: cut off, repeated, with jobs that fail; and the report of one."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError
from grpo_envs.runs.folder import RunFolder, job_name
from grpo_envs.sweep_report import main, ranked, read_jobs, report, table_of
from tests.support import forked

QUICK = [
    *("trainer.steps=2", "trainer.prompts_per_step=2", "trainer.eval_problems=4"),
    *("trainer.save_every=1", "agent.group_size=2", "sampler.max_new_tokens=8"),
    "logger.names=[jsonl]",
]
GRID = ["env=math,code", "seed=0,1", *QUICK]


def start(cwd: Path, *args: str) -> forked.Forked:
    return forked.Forked(cwd, "grpo_envs.run", "-m", *args)


def sweep(cwd: Path, *args: str) -> tuple[int, str, str]:
    done = forked.run(cwd, "grpo_envs.run", "-m", *args)
    return done.returncode, done.stdout, done.stderr


def wait_for(holds: Callable[[], bool], process: forked.Forked) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, int], str]:
    """A sweep of four jobs that was killed in the third and completed by the same command.

    Its folder, when what was done by then had been written, and what the second start printed.
    """
    cwd = tmp_path_factory.mktemp("sweep")
    process = start(cwd, *GRID)
    folder = cwd / "multirun"

    def in_the_third() -> bool:
        cut = [p for p in folder.glob("*/*/checkpoints/last") if "env-code_seed-0" in str(p)]
        return bool(cut)

    wait_for(in_the_third, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/done.json")}
    code, out, err = sweep(cwd, *GRID)
    assert code == 0, err
    (folder,) = folder.iterdir()
    return folder, written, out


def test_the_same_command_completes_a_sweep_that_was_killed(
    grid: tuple[Path, dict[Path, int], str],
) -> None:
    folder, written, out = grid
    assert folder.name.startswith("env_seed_agent.group_size-2_")
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    assert names == {f"env-{env}_seed-{seed}" for env in ("math", "code") for seed in range(2)}
    assert len(list(folder.glob("*/done.json"))) == 4
    known = {path.parent.name for path in written}
    assert known >= {"env-math_seed-0", "env-math_seed-1"}
    assert out.count("already done: ") == len(written)
    assert out.count("resuming ") == (1 if len(written) == 2 else 0)
    assert all(path.stat().st_mtime_ns == before for path, before in written.items())


def test_no_step_of_it_was_made_twice(grid: tuple[Path, dict[Path, int], str]) -> None:
    folder, _, _ = grid
    for run in folder.glob("*/metrics.jsonl"):
        assert [row["step"] for row in rows(run)] == [1, 2]
        assert len(rows(run.with_name("completions.jsonl"))) == 2 * 2 * 2
        assert [row["step"] for row in rows(run.with_name("eval.jsonl"))] == [0, 2]


def test_the_report_tells_what_varies_best_first(
    grid: tuple[Path, dict[Path, int], str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, _ = grid
    jobs = ranked(read_jobs(folder), "eval/reward")
    header, cells = table_of(jobs, "eval/reward")
    assert header == ["env", "seed", "held-out reward", "accuracy", "steps", "time", "state"]
    assert sorted(row[:2] for row in cells) == [
        [env, seed] for env in ("code", "math") for seed in ("0", "1")
    ]
    last = {path.parent.name: rows(path)[-1] for path in folder.glob("*/eval.jsonl")}
    for job, row in zip(jobs, cells, strict=True):
        held_out = last[job.path.name]
        assert row[2] == f"{held_out['eval/reward']:.3f} +- {held_out['eval/reward_ci95']:.3f}"
        assert row[3] == f"{held_out['eval/accuracy']:.3f} +- {held_out['eval/ci95']:.3f}"
        assert row[6] == "done"
    rewards = [job.result["eval/reward"] for job in jobs]
    assert rewards == sorted(rewards, reverse=True)
    lowest = ranked(jobs, "eval/reward", ascending=True)
    assert [job.result["eval/reward"] for job in lowest] == rewards[::-1]
    with pytest.raises(ConfigError, match=r"^--by=eval/rewrd\. .* Did you mean 'eval/reward'\?$"):
        ranked(jobs, "eval/rewrd")


def test_the_report_writes_a_picture_and_a_page(grid: tuple[Path, dict[Path, int], str]) -> None:
    folder, _, _ = grid
    report(folder, "eval/reward")
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script src" not in page  # it needs no network
    assert page.count("<td>done</td>") == 4
    assert page.count("env-math_seed-1") >= 3  # what a curve says when it is pointed at


def test_without_matplotlib_the_report_is_a_table_and_a_page(
    grid: tuple[Path, dict[Path, int], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _, _ = grid
    (folder / "report.html").unlink(missing_ok=True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", ["sweep_report", str(folder)])
    main()
    told = capsys.readouterr()
    assert told.err == 'no report.png: pictures need matplotlib: pip install -e ".[plot]"\n'
    assert told.out.count("done") == 4
    assert told.out.splitlines()[-1] == str(folder / "report.html")
    assert "report.png" not in told.out
    assert (folder / "report.html").is_file()


def started(sweep: Path, name: str) -> RunFolder:
    """A run that has just begun."""
    run = RunFolder(sweep / name)
    run.claim({}, [f"model.path={name}<b>", "seed=1"])
    return run


def test_the_report_names_what_failed_and_what_was_cut_off(tmp_path: Path) -> None:
    done, cut, failed = (started(tmp_path, name) for name in "abc")
    done.finish(9, {"eval/reward": 0.5, "eval/reward_ci95": 0.1, "time/step": 1.0})
    (cut.path / "metrics.jsonl").write_text('{"step": 7, "reward/mean": 0.1, "time/step": 61}\n')
    failed.fail("no <disk>", failed.overrides)
    header, cells = table_of(ranked(read_jobs(tmp_path), "eval/reward"), "time/step")
    assert header[:2] == ["model.path", "held-out reward"]
    assert cells == [
        ["a<b>", "0.500 +- 0.100", "-", "1", "0", "0:00", "done"],
        ["b<b>", "-", "-", "-", "1", "1:01", "cut off after step 7"],
        ["c<b>", "-", "-", "-", "0", "0:00", "failed: no <disk>"],
    ]
    report(tmp_path, "eval/reward")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "no &lt;disk&gt;" in page
    assert "no <disk>" not in page


def test_the_report_has_jobs_that_failed_before_they_began(tmp_path: Path) -> None:
    """A job whose configuration is refused leaves failed.json and nothing else."""
    code, _, _ = sweep(tmp_path, "env.level=99,77", *QUICK, "hydra.sweep.dir=here")
    assert code == 1
    folder = tmp_path / "here"
    assert not list(folder.glob("*/config.json"))
    done = started(folder, "done")
    done.finish(9, {"eval/reward": 0.5, "eval/reward_ci95": 0.1})
    header, cells = table_of(ranked(read_jobs(folder), "eval/reward"), "eval/reward")
    shown = [dict(zip(header, row, strict=True)) for row in cells]
    assert [(row["env.level"], row["state"]) for row in shown] == [
        ("-", "done"),
        *((level, f"failed: env.level={level}. Allowed: 1, 2, 3, 4, 5.") for level in ("77", "99")),
    ]


def test_no_sweep_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep_report", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert "nowhere: no jobs of a sweep in it." in line


def test_a_job_that_fails_stops_no_other_and_is_told_at_the_end(tmp_path: Path) -> None:
    overrides = ["env.level=1", *QUICK]
    done = RunFolder(tmp_path / "here" / "env.level-1")
    done.claim(compose_run(overrides).identity(), overrides)
    done.finish(2, {"eval/accuracy": 0.5})
    args = ["env.level=99,1,77", *QUICK, "hydra.sweep.dir=here"]
    code, out, err = sweep(tmp_path, *args)
    assert code == 1
    assert "already done: here/" in out
    told = err[err.index("grpo_envs: ") :].splitlines()
    assert told[0] == (
        "grpo_envs: 2 of the sweep's jobs failed; the same command tries them again:"
    )
    assert all(line.startswith("  here/env.level-") for line in told[1:])
    reasons = [line.partition(": ")[2] for line in told[1:]]
    assert reasons == [f"env.level={level}. Allowed: 1, 2, 3, 4, 5." for level in (77, 99)]
    assert "Traceback" not in err + out

    # The configuration of the one that is done is another now: its folder is not taken.
    config = json.loads((done.path / "config.json").read_text())
    config["config"]["seed"] = 7
    (done.path / "config.json").write_text(json.dumps(config))
    code, out, err = sweep(tmp_path, *args)
    assert code == 1
    assert "grpo_envs: 3 of the sweep's jobs failed" in err
    assert " holds another run: seed=7 then, 0 now.\n" in err
    assert done.result == {"eval/accuracy": 0.5}


def test_a_bug_in_a_job_leaves_its_traceback_in_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "here" / job_name(["seed=0"])
    folder.mkdir(parents=True)
    (folder / "done.json").write_text("[]")  # which no run of ours writes
    code, _, err = sweep(tmp_path, "seed=0", "hydra.sweep.dir=here")
    assert code == 1
    assert err.splitlines()[-1].startswith("  here/seed-0: AttributeError: ")
    assert "Traceback" in (folder / "run.log").read_text()


@pytest.mark.slow
def test_jobs_that_share_a_terminal_name_their_lines(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    args = ["env.level=98,99", *QUICK, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    code, out, _ = sweep(tmp_path, *args)
    assert code == 1
    for level in (98, 99):
        (line,) = [x for x in out.splitlines() if x.startswith(f"[env.level={level}] ")]
        assert f"failed: env.level={level}. Allowed: 1, 2, 3, 4, 5." in line


@pytest.mark.slow
def test_a_sweeper_is_told_the_objective(tmp_path: Path) -> None:
    """Optuna looks for the better of two runs that are done already."""
    pytest.importorskip("optuna")
    for beta, reward in (("0.0", 0.25), ("0.04", 0.75)):
        overrides = [f"agent.loss.beta={beta}", "trainer.sweep_metric=reward/mean"]
        run = RunFolder(tmp_path / "here" / job_name(overrides[:1]))
        run.claim(compose_run(overrides).identity(), overrides)
        run.finish(60, {"reward/mean": reward, "eval/accuracy": 0.0})
    code, out, err = sweep(
        tmp_path,
        *("hydra/sweeper=optuna", "agent.loss.beta=0.0,0.04", "hydra.sweeper.n_trials=4"),
        *("trainer.sweep_metric=reward/mean", "hydra.sweeper.direction=maximize"),
        *("hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=s"),
        *("hydra.sweeper.sampler.seed=1", "hydra.sweep.dir=here"),
    )
    assert code == 0, err
    assert out.count("already done") == 4
    best = yaml.safe_load((tmp_path / "here" / "optimization_results.yaml").read_text())
    assert best["best_params"] == {"agent.loss.beta": 0.04}
    assert best["best_value"] == 0.75


@pytest.mark.slow
def test_a_sweeper_that_would_learn_from_nothing_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    args = ["hydra/sweeper=optuna", "seed=0,1", "trainer.eval_problems=0"]
    code, _, err = sweep(tmp_path, *args, "hydra.sweep.dir=here")
    assert code == 1
    assert "trainer.sweep_metric=eval/accuracy with trainer.eval_problems=0: nothing is" in err
