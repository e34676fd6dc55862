"""What a run notes of its code, packages and machine."""

import json
import subprocess
from pathlib import Path

import pytest

from grpo_envs.runs import provenance
from grpo_envs.runs.folder import RunFolder


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_commit_and_whether_tracked_files_differ_from_it(tmp_path: Path) -> None:
    assert provenance.repositories([tmp_path]) == []
    git(tmp_path, "init", "-q")
    assert provenance.repositories([tmp_path]) == [], "it has no commit yet"
    code, inner = tmp_path / "code.py", tmp_path / "inner"
    inner.mkdir()
    code.write_text("1", encoding="utf-8")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    expected = {"repository": tmp_path.name, "commit": commit, "dirty": False}
    clean = [{**expected, "untracked": 0}]
    assert provenance.repositories([inner, tmp_path]) == clean, "one repository is named once"
    (inner / "mine.py").write_text("never added", encoding="utf-8")
    assert provenance.repositories([tmp_path]) == [{**expected, "untracked": 1}]
    code.write_text("2", encoding="utf-8")
    assert provenance.repositories([inner]) == [{**expected, "dirty": True, "untracked": 1}]
    git(tmp_path, "checkout", "-q", "--detach")
    assert provenance.repositories([tmp_path])[0]["commit"] == commit


def test_without_git_nothing_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.repositories([tmp_path]) == []


def test_a_session_ends_and_the_next_one_is_beside_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.end()  # nothing has begun: nothing is written
    assert not list(tmp_path.iterdir())
    first = provenance.session("cpu", threads=3)
    assert (first["threads"], first["gpus"], first["end"]) == (3, [], None)
    folder.claim({"seed": 0}, ["seed=0"], {"sessions": [first]})
    folder.end()
    ended = folder.about["sessions"][0]
    assert ended["start"] <= ended["end"]
    assert {**ended, "end": None} == json.loads(json.dumps(first))
    assert (folder.config, folder.overrides) == ({"seed": 0}, ["seed=0"])


def test_every_installed_package_is_a_line() -> None:
    lines = provenance.packages().splitlines()
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0].lower())
    assert {"numpy", "hydra-core"} < {line.partition("==")[0] for line in lines}
