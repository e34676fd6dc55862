"""docs/tutorial.md from its first command to its last, in one folder, as a reader does."""

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a virtual environment that has all that this one has; pip installs into it."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    base = next(path for path in sys.path if path.endswith("site-packages"))
    own = [str(ROOT), str(ROOT / "agents"), str(ROOT / "envs"), base]
    (site / "base.pth").write_text("\n".join(own))
    bins = [str(tmp_path / "venv" / "bin"), str(Path(sys.executable).parent)]
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "PATH": os.pathsep.join([*bins, os.environ.get("PATH", os.defpath)]),
        "PIP_PYTHON": str(tmp_path / "venv" / "bin" / "python"),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # no isolation: pip's own way to say so
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def followed(environment: dict[str, str], cwd: Path) -> dict[str, str]:
    """What each command printed; the files that the page has you save are saved before."""
    printed = {}
    for kind, block in re.findall(r"```(py|shell)\n(.*?)```", PAGE, flags=re.DOTALL):
        if kind == "py":
            (cwd / ("make.py" if "totals.csv" in block else "use.py")).write_text(block)
            continue
        for command in block.splitlines():
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            printed[command] = done.stdout
    return printed


def last_of(printed: dict[str, str], name: str) -> str:
    (command,) = [command for command in printed if name in command]
    return printed[command]


@pytest.mark.slow
def test_a_reader_gets_from_the_csv_to_a_model(environment: dict[str, str], tmp_path: Path) -> None:
    printed = followed(environment, tmp_path)
    assert "15 of 15 promises held" in last_of(printed, "grpo_envs.check")
    config = json.loads((tmp_path / "outputs/totals/config.json").read_text(encoding="utf-8"))
    assert config["config"]["env.dataset"] == "totals.csv"
    lines = (tmp_path / "outputs/totals/eval.jsonl").read_text(encoding="utf-8").splitlines()
    before, after = (json.loads(line)["eval/accuracy"] for line in lines)
    assert before < 0.5
    assert after > 0.8
    assert "b higher" in last_of(printed, "grpo_envs.evaluate")
    assert (tmp_path / "totals-model" / "model.safetensors").exists()
    assert last_of(printed, "use.py").strip().endswith("<answer>102</answer>")
