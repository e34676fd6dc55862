"""The pages in docs/: what they say is generated, composes, or is run as it stands."""

import dataclasses
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grpo_envs.env import conformance
from grpo_envs.sandbox import acts, levels
from grpo_envs.sandbox.types import Limits

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
RUNS = Path(__file__).parents[1] / "data" / "runs"
COMMANDS = [
    (page.name, line.partition("  #")[0].strip())
    for page in PAGES
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
    if re.search(r"grpo_envs\.(check|plan|play|report|doctor|evaluate|export_data) ", line)
    and "--watch" not in line  # which serves until Ctrl-C: tests/report/test_live.py
]
QUICK = ("grpo_envs.doctor", "grpo_envs.report")
OWN = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
"""The PATH of an activated environment: the pages say `python`, and tests may run without it."""


def maker_of(page: str) -> Any:
    """The module that writes a page."""
    spec = importlib.util.spec_from_file_location(f"docs_{page}", DOCS / f"{page}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_environments_is_what_the_docstrings_say() -> None:
    page = (DOCS / "environments.md").read_text(encoding="utf-8")
    assert page == maker_of("environments").page(), "python docs/environments.py writes it anew"
    assert not re.findall(r"\| `env\.\w+` \| .* \|  \|$", page, re.MULTILINE), "an untold keyword"


FAULTS = maker_of("faults")


def test_the_page_of_faults_has_them_all() -> None:
    page = (DOCS / "faults.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (.*?) \| \d+ \| `", page, re.MULTILINE) == list(FAULTS.FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS.FAULTS)
def test_a_fault_ends_as_the_page_says(fault: str, tmp_path: Path) -> None:
    page = (DOCS / "faults.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith(f"| {fault} |")]
    code, line = FAULTS.FAULTS[fault](FAULTS.Place(tmp_path))
    _, _, page_code, page_line, _ = re.split(r"(?<!\\) ?\| ?", row, maxsplit=4)
    assert int(page_code) == code

    def without_figures(text: str) -> str:
        return re.sub(r"\S*\d\S*", "#", text).replace("rewards", "reward")

    words = [
        without_figures(text.replace(str(tmp_path), ".")) for text in (page_line.strip("`"), line)
    ]
    assert words[0] == words[1]


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert page.name == "README.md" or f"({page.name})" in index


def test_the_page_of_the_contract_has_every_promise() -> None:
    page = (DOCS / "contract.md").read_text(encoding="utf-8")
    body = page.partition("## The promises")[2].partition("## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", body, re.MULTILINE)
    assert rows[1:] == list(conformance._PROMISES)


def test_the_page_of_the_sandbox_has_every_level_act_and_limit() -> None:
    page = (DOCS / "sandbox.md").read_text(encoding="utf-8")
    for word in (*levels.LEVELS, *acts._ACTS):
        assert word in page.replace("\n", " "), word
    for limit in dataclasses.astuple(Limits()):
        assert re.search(rf"\b{limit:g}\b", page), limit


def commands_of_the_page() -> dict[str, set[str]]:
    """The commands of docs/commands.md with their options; the rows of other tables have none."""
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`[a-z_]+[ `][^|]*)\|", page, re.MULTILINE)
    rows = {re.match(r"`(\w+)", cell)[1]: set(re.findall(r"--[a-z-]+", cell)) for cell in cells}  # type: ignore[index]
    return {name: options - {"--"} for name, options in rows.items()}


def test_the_page_of_commands_has_them_all() -> None:
    modules = [
        path.parent.name if path.stem == "__main__" else path.stem
        for path in (ROOT / "grpo_envs").glob("**/*.py")
        if re.search(r'^if __name__ == "__main__"', path.read_text(encoding="utf-8"), re.MULTILINE)
        if path.parent.name == "grpo_envs" or path.stem == "__main__"
    ]
    assert set(commands_of_the_page()) == set(modules)


@pytest.mark.parametrize("name", sorted(set(commands_of_the_page()) - {"run", "sft"}))
def test_the_page_of_commands_has_every_option(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of `run` and `sft` are Hydra's."""
    package = name in ("report", "sandbox")
    module = importlib.import_module(
        f"grpo_envs.{name}.__main__" if package else f"grpo_envs.{name}"
    )
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit):
        module.main()
    options = re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    assert commands_of_the_page()[name] == set(options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are run: runs stand where the pages say."""
    cwd = tmp_path_factory.mktemp("docs")
    for name, kept in (("math", "healthy"), ("code", "truncated")):
        shutil.copytree(RUNS / kept, cwd / "outputs" / name)
        tiny = ROOT / "agents" / "grpo_policy" / "tiny"
        shutil.copytree(tiny, cwd / "outputs" / name / "checkpoints" / "last")
    return cwd


@pytest.mark.parametrize(
    ("page", "command"),
    [
        pytest.param(
            page, command, marks=() if any(word in command for word in QUICK) else pytest.mark.slow
        )
        for command, page in {command: page for page, command in COMMANDS}.items()
    ],
)
def test_a_command_of_the_pages_runs(page: str, command: str, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": OWN},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    reports = ("doctor", "plan")  # exit with 1 where they find something
    found_something = any(f"grpo_envs.{name}" in command for name in reports)
    found_something &= done.returncode == 1
    assert done.returncode == 0 or found_something, f"{page}: {command}\n{done.stderr}"


@pytest.mark.slow
def test_a_plan_prints_what_the_page_shows() -> None:
    page = (DOCS / "gpu.md").read_text(encoding="utf-8")
    form = r"```bash\n(python -m grpo_envs\.plan [^\n]*)\n```\n\n```\n(.*?)```"
    shown = re.findall(form, page, re.DOTALL)
    assert shown
    for command, printed in shown:
        done = subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, "PATH": OWN},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.stdout == printed, done.stderr


def test_every_metric_has_a_row() -> None:
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*)", page, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    patterns = [re.escape(name).replace("<k>", r"\d+") for name in told if name[0] != "/"]
    patterns = [re.sub("<[a-z]+>", r"[^/]+", each) for each in patterns]
    patterns += [f"env/[^/]+{re.escape(name)}" for name in told if name[0] == "/"]
    kept = [path for name in ("metrics", "eval") for path in RUNS.glob(f"*/{name}.jsonl")]
    lines = [line for path in kept for line in path.read_text(encoding="utf-8").splitlines()]
    logged = {name for line in lines for name in json.loads(line)} - {"step"}
    areas = "completion|eval|group|loss|memory|mfu|optim|policy|reward|sampler|time|tokens"
    logged |= {
        name
        for folder in ("grpo_envs/training", "grpo_envs/runs", "agents")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(rf'"((?:{areas})/[\w@]+)"', path.read_text(encoding="utf-8"))
    }
    internal = {"policy/correction_square"}  # becomes policy/correction_ess
    untold = {
        name for name in logged - internal if not any(re.fullmatch(p, name) for p in patterns)
    }
    assert len(logged) > 40
    assert not untold, "docs/metrics.md has no row of them"


@pytest.mark.slow
def test_the_site_is_built_by_the_command_that_is_named(tmp_path: Path) -> None:
    """Strictly: a dead link or a missing reference is an error (the gate builds it, too)."""
    page = (DOCS / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"sphinx-build [^`]*", page)
    done = subprocess.run(
        ["bash", "-c", command.replace(" site", f" {tmp_path}")],
        cwd=ROOT,
        env={**os.environ, "PATH": OWN},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "token_ratio" in (tmp_path / "docs" / "api.html").read_text(encoding="utf-8")
