""".ci/pythons: the suite on every Python of the metadata; .ci/engine: where vLLM is.

Stubs stand for interpreters.
"""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "pythons"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the sdist has no .ci")
INTERPRETER = """\
#!/bin/sh
if [ "$1" = --version ]; then echo "Python {version}.1"; exit; fi
mkdir -p "$3/bin" && cd "$3/bin" || exit 1
echo 'PATH="$(dirname "${{BASH_SOURCE[0]}}"):$PATH"' > activate
echo '#!/bin/sh' > pip
echo 'echo "pip of {version}: $*"' >> pip
echo '#!/bin/sh' > pytest
echo 'echo "pytest of {version}"; exit {code}' >> pytest
chmod +x pip pytest
echo "made for {version}"
"""
"""An interpreter that makes environments whose pip and pytest only say that they were called."""
PROJECT = """\
classifiers = [
  "Programming Language :: Python :: 3.97",
  "Programming Language :: Python :: 3.98",
  "Programming Language :: Python :: 3.99",
]
"""


def test_the_versions_are_those_of_the_classifiers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    prefix = "Programming Language :: Python :: "
    named = [c.removeprefix(prefix) for c in project["classifiers"] if c.startswith(prefix)]
    listed = subprocess.check_output([SCRIPT, "--list"], text=True).split()
    assert listed == named
    after = int(named[-1].removeprefix("3.")) + 1
    assert project["requires-python"] == f">={named[0]},<3.{after}"


class Place:
    """A project, and a home whose pyenv and PATH have what was added."""

    def __init__(self, folder: Path) -> None:
        self.home = folder
        self.project = folder / "project"
        (self.project / ".ci").mkdir(parents=True)
        shutil.copy(SCRIPT, self.project / ".ci")
        (self.project / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
        readme = 'Tests:\npip install -e ".[dev]" && pytest\n'
        (self.project / "README.md").write_text(readme, encoding="utf-8")

    def add(self, path: str, version: str, code: int) -> None:
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(INTERPRETER.format(version=version, code=code), encoding="utf-8")
        file.chmod(0o755)

    def run(self) -> tuple[int, list[str]]:
        env = {"HOME": str(self.home), "PATH": f"{self.home / 'bin'}:{os.defpath}"}
        command = [str(self.project / ".ci" / "pythons")]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.splitlines()


def test_each_python_that_is_there_runs_the_suite_and_has_a_line(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.add("bin/python3.97", "3.97", code=1)
    place.add(".pyenv/versions/3.98.1/bin/python", "3.98", code=0)
    code, said = place.run()
    assert code == 1
    assert said[-3:] == [
        "Python 3.97: failed",
        "Python 3.98: passed",
        "Python 3.99: skipped, this machine has none",
    ]
    for version in ("3.97", "3.98"):
        assert f"pip of {version}: install -e .[dev] --quiet" in said
        assert f"pytest of {version}" in said
    assert len([line for line in said if line.startswith("made for ")]) == 2
    # Environments are kept, and without a failure the exit code is 0.
    (tmp_path / "bin" / "python3.97").unlink()
    code, said = place.run()
    assert code == 0
    assert not [line for line in said if line.startswith("made for ")]
    assert said[-2] == "Python 3.98: passed"


def test_a_shim_that_does_not_run_is_no_interpreter(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.add("bin/python3.97", "3.96", code=0)  # as a shim for another version
    code, said = place.run()
    assert code == 1
    assert said[0] == "Python 3.97: skipped, this machine has none"
    assert said[-1] == "no Python of the metadata is here: nothing was tested"


def test_the_interpreter_with_vllm_is_named_once_it_is_whole(tmp_path: Path) -> None:
    script = SCRIPT.with_name("engine")
    env = {**os.environ, "CI_VENVS": str(tmp_path)}

    def named() -> tuple[int, str]:
        done = subprocess.run(
            [script, "--python"], env=env, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout.strip()

    assert named() == (1, "")
    traced = subprocess.run(
        ["bash", "-x", script, "--python"], env=env, capture_output=True, text=True, check=False
    )
    venv = Path(re.findall(rf"{tmp_path}/vllm-\w+", traced.stderr)[0])
    venv.mkdir()
    assert named() == (1, ""), "an installation that was cut off"
    (venv / ".complete").touch()
    assert named() == (0, str(venv / "bin" / "python"))
