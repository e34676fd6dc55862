"""The wheel and the sdist: what is in them, and that the wheel alone runs from anywhere."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of the working tree and the wheel that is built from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return out


@pytest.fixture(scope="module")
def names(built: Path) -> list[str]:
    (wheel,) = built.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_the_wheel_has_our_packages_and_nothing_else(names: list[str]) -> None:
    top = {name.split("/")[0] for name in names}
    ours = {p.parent.name for d in ("envs", "agents") for p in (ROOT / d).glob("*/__init__.py")}
    assert {t for t in top if not t.endswith(".dist-info")} == {"grpo_envs", *ours}
    assert {"grpo_agent", "grpo_env_math", "grpo_env_games", "grpo_env_tools"} <= ours
    assert not [
        n for n in names if n.endswith((".md", ".pyc")) or re.search(r"\btests?(?:_|\b)", n)
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("grpo_envs/py.typed", "grpo_env_math/py.typed", "grpo_agent/py.typed"),
        *("grpo_policy/tiny/model.safetensors", "grpo_policy/tiny/config.json"),
        *("grpo_policy/tiny/tokenizer.json", "grpo_policy/tiny/chat_template.jinja"),
    ],
)
def test_the_wheel_has_its_data(names: list[str], name: str) -> None:
    assert name in names


def test_the_wheel_has_every_python_file_and_every_yaml(names: list[str]) -> None:
    sources = [p for d in ("envs", "agents") for p in (ROOT / d).rglob("*.py")]
    expected = {str(p.relative_to(ROOT / p.relative_to(ROOT).parts[0])) for p in sources}
    expected |= {str(p.relative_to(ROOT)) for p in (ROOT / "grpo_envs").rglob("*.py")}
    expected |= {f"grpo_envs/{p.relative_to(ROOT)}" for p in (ROOT / "conf").rglob("*.yaml")}
    assert expected <= set(names)


def test_the_metadata(built: Path, names: list[str]) -> None:
    (wheel,) = built.glob("*.whl")
    (metadata,) = [n for n in names if n.endswith("METADATA")]
    (entry_points,) = [n for n in names if n.endswith("entry_points.txt")]
    archive = zipfile.ZipFile(wheel)
    text = archive.read(metadata).decode()
    assert "Requires-Python: <3.14,>=3.11" in text
    assert "License-Expression: Apache-2.0" in text
    declared = archive.read(entry_points).decode()
    for line in ("math = grpo_env_math:MathEnv", "grpo-envs = grpo_envs.run:main"):
        assert line in declared
    assert [n for n in names if n.endswith("licenses/LICENSE")]


def test_the_sdist_can_be_tested(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "conf/config.yaml"} <= files
    assert "tests/whole/test_packaging.py" in files


def test_the_bundled_model_keeps_its_size() -> None:
    folder = ROOT / "agents" / "grpo_policy" / "tiny"
    assert sum(f.stat().st_size for f in folder.iterdir()) < 5 * 1024 * 1024


@pytest.mark.parametrize("trains", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_wheel_runs_from_elsewhere(built: Path, tmp_path: Path, *, trains: bool) -> None:
    """Unpacked without dependencies and put before the checkout on the path, it trains.

    A wheel that is installed trains in test_third_party.py, by default too.
    """
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    work = tmp_path / "work"
    work.mkdir()
    code = "import grpo_envs, grpo_agent, grpo_env_math as m; print(grpo_envs.__file__, m.__file__)"
    env = {**os.environ, "PYTHONPATH": str(site)}

    def run(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, *args],
            cwd=work,
            env=env,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert [Path(p).is_relative_to(site) for p in run("-c", code).split()] == [True, True]
    small = ["trainer=smoke", "trainer.eval_problems=0", "trainer.steps=1", "agent.group_size=2"]
    command = ["-m", "grpo_envs.run", "env=math", "model=qwen", *small, "sampler.max_new_tokens=8"]
    if not trains:
        assert "group_size: 2" in run(*command, "--cfg", "job")
        return
    run(*command)
    (metrics,) = work.glob("outputs/math/*/metrics.jsonl")
    assert '"step": 1' in metrics.read_text()
