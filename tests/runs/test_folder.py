"""A run's folder: its name, whose it is, and what became of the run."""

import json
import os
import re
from pathlib import Path

import pytest

from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError
from grpo_envs.runs.checkpoint import Checkpoints
from grpo_envs.runs.folder import RunFolder, failures, job_name, sweep_name

NAMES = [
    pytest.param([], "default", id="no overrides"),
    pytest.param(["seed=1"], "seed-1", id="one"),
    pytest.param(["seed=1", "agent.lr=3e-5"], "seed-1_agent.lr-3e-5", id="short keys first"),
    pytest.param(["env.of={a: 1, b: 2}"], r"env\.of-_a__1__b__2_-[0-9a-f]{8}", id="lossy: a hash"),
    pytest.param(["a=" + "x" * 300], r"a-x{98}-[0-9a-f]{8}", id="too long: a hash"),
]


@pytest.mark.parametrize(("overrides", "name"), NAMES)
def test_a_job_is_named_by_its_overrides(overrides: list[str], name: str) -> None:
    assert re.fullmatch(name, job_name(overrides))
    assert job_name(overrides) == job_name(overrides[::-1])


def test_what_differs_has_another_name() -> None:
    alike = ["env.of={a: 1}", "env.of=[a: 1]", "a=" + "x" * 300, "a=" + "x" * 299 + "y", "s=1"]
    assert len({job_name([override]) for override in alike}) == len(alike)


def test_a_name_can_stand_in_an_override() -> None:
    for name in (job_name(["env=math", "agent.lr=3e-5"]), sweep_name({"env": None, "seed": "1"})):
        path = f"multirun/{name}/checkpoints/last"
        assert compose_run(["model=hf", f"model.path={path}"]).model.path == path


def test_a_folder_knows_its_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert (folder.config, folder.result, folder.error) == (None, None, None)
    assert folder.overrides == []
    folder.require_same({"seed": 5})  # nobody's yet
    folder.path.mkdir()
    folder.fail("no disk", ["seed=3"])
    assert RunFolder(folder.path).error == "no disk"
    assert folder.overrides == ["seed=3"]
    folder.try_again()
    assert folder.error is None
    folder.claim({"seed": 0, "env.terms": (2, 3)}, ["seed=0"])
    assert folder.overrides == ["seed=0"]
    folder.require_same({"env.terms": (2, 3), "seed": 0})
    with pytest.raises(ConfigError, match=r"run holds another run: seed=0 then, 5 now\.$"):
        folder.require_same({"env.terms": [2, 3], "seed": 5})
    folder.finish(7, {"eval/accuracy": 0.5})
    assert folder.result == {"eval/accuracy": 0.5}


def test_the_failures_of_an_earlier_start_are_not_told_again(tmp_path: Path) -> None:
    for name, moment in (("old", 100.0), ("new", 300.0)):
        (tmp_path / name).mkdir()
        RunFolder(tmp_path / name).fail(f"{name} reason", [])
        os.utime(tmp_path / name / "failed.json", (moment, moment))
    assert [folder.error for folder in failures(tmp_path, 200.0)] == ["new reason"]


def checkpoint(run: Path, step: int, *, broken: bool = False) -> Path:
    """A checkpoint of one file, or what is left of it."""
    folder = Checkpoints(run).after(step)
    folder.mkdir(parents=True)
    (folder / "model").write_text("abc"[: 1 if broken else 3])
    meta = {"step": step, "config": {}, "bytes": {"model": 3}}
    (folder / "trainer.json").write_text(json.dumps(meta))
    return folder


def test_a_run_goes_on_from_its_newest_whole_checkpoint_or_not_at_all(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest_whole() is None
    checkpoint(tmp_path, 4, broken=True)
    assert checkpoints.newest_whole() is None
    checkpoint(tmp_path, 2)
    assert checkpoints.newest_whole() == checkpoints.after(2)
    checkpoint(tmp_path, 10)
    assert checkpoints.newest_whole() == checkpoints.after(10)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"step": 3}'])
def test_a_checkpoint_that_says_nothing_of_itself_is_not_whole(text: str, tmp_path: Path) -> None:
    (checkpoint(tmp_path, 3) / "trainer.json").write_text(text)
    assert Checkpoints(tmp_path).newest_whole() is None


def test_what_is_broken_is_set_aside_and_what_is_whole_stays(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoint(tmp_path, 2)
    checkpoints.point_last_to(checkpoint(tmp_path, 4, broken=True))
    assert checkpoints.set_aside() == ["broken_step_000004 (model has 1 of 3 bytes)"]
    names = sorted(path.name for path in checkpoints.folder.iterdir())
    assert names == ["broken_step_000004", "step_000002"]
    assert checkpoints.set_aside() == []
    assert Checkpoints(tmp_path / "nowhere").set_aside() == []


class Saved:
    """A policy that writes a file."""

    def save(self, folder: Path, dtype: str) -> None:
        (folder / "model").write_text("abc")


def test_a_broken_checkpoint_that_comes_later_takes_no_place_of_a_whole_one(
    tmp_path: Path,
) -> None:
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 4, broken=True)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(3, Saved(), {}, {})  # on from 2, stopped after 3
    assert checkpoints.newest_whole() == checkpoints.after(3)
    assert not checkpoints.after(2).exists()
    checkpoints.save(4, Saved(), {}, {})
    assert checkpoints.newest_whole() == checkpoints.last.resolve() == checkpoints.after(4)
    assert not checkpoints.after(3).exists()


def test_the_folder_of_something_else_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"env": {}}')  # as of an evaluation
    assert RunFolder(tmp_path).config is None


def test_a_run_that_begins_again_is_not_done(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim({"seed": 0}, [])
    folder.finish(2, {"eval/accuracy": 0.5})
    folder.claim({"seed": 0}, [])
    assert folder.result is None
