"""A run's folder: its name, whose it is, and what became of the run."""

import os
import re
from pathlib import Path

import pytest

from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError
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
