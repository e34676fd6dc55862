"""What a newcomer reads before the first run: `--help`, `--cfg`, `--info`, and the tab key."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from grpo_agent import config as agent_config
from grpo_envs.config import agent, model, schema
from grpo_envs.config.composition import compose_run, composed
from grpo_envs.config.convert import convert
from grpo_envs.config.help import GROUPS, WIDTH, field_docs, help_text, keys, options_of
from grpo_envs.env.plugins import conf_dir

ROOT = Path(__file__).parents[2]
DATACLASSES = {
    node
    for module in (agent, model, schema, agent_config)
    for node in vars(module).values()
    if dataclasses.is_dataclass(node) and isinstance(node, type)
}


TREE: Any = OmegaConf.to_container(composed([]))


@pytest.fixture(scope="module")
def told() -> str:
    return help_text(composed([]))


def row(text: str, name: str) -> str:
    """The row of an option or a key, unwrapped."""
    found = re.search(rf"^  {re.escape(name)}\s+((?:.*\n)(?:\s{{18,}}\S.*\n)*)", text, re.MULTILINE)
    assert found, f"no row {name}"
    return " ".join(found[1].split())


@pytest.mark.parametrize("path", sorted(conf_dir().glob("*/*.yaml")), ids=lambda p: p.stem)
def test_every_option_is_told_by_its_first_line(path: Path, told: str) -> None:
    group = path.parent.name
    if group == "hydra":
        return
    assert group in GROUPS
    text = options_of(group)[path.stem]
    assert len(text) > 20
    assert text[-1] in ".?"
    section = told[told.index(f"\n{group}=\n") :]
    assert row(section, path.stem) == text
    first = next(x for x in path.read_text().splitlines() if x[0] == "#" and "@package" not in x)
    told_first = first.removeprefix("# ")
    assert text.startswith(told_first) or told_first.startswith(text)


def test_an_environment_without_yaml_is_listed_with_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "bare-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bare\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[grpo_envs.envs]\nbare = nowhere:BareEnv\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert options_of("env")["bare"] == "(nowhere:BareEnv)"


def test_the_keys_that_matter_are_told_with_values_and_meaning(told: str) -> None:
    known = keys(TREE)
    assert 20 <= len(known) <= 25
    assert row(told, "agent.group_size=8") == "Completions per problem (G)."
    assert row(told, "trainer.device=auto").startswith("auto takes a CUDA GPU")
    assert all(row(told, key_value) for key_value in ("seed=0", "resume=null"))
    assert "trainer.sweep_metric=eval/accuracy" in told
    assert all(len(text) > 15 for text in known.values())


def test_the_page_of_keys_has_each_of_them() -> None:
    table = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
    known = set(keys(TREE))
    named = {key for key in known if key in table or f"`.{key.rpartition('.')[2]}`" in table}
    assert known == named


def test_the_values_are_those_of_the_command() -> None:
    told = help_text(composed(["agent=dapo", "seed=7", "env=countdown", "env.level=3"]))
    for said in ("  seed=7  ", "  agent.loss.clip_high=0.28  ", "== Keys of env=countdown =="):
        assert said in told
    assert row(told + "\n", "env.level=3").startswith("1 ")


def test_it_fits_on_a_screen_that_is_not_wide(told: str) -> None:
    assert max(map(len, told.splitlines())) <= WIDTH
    assert len(told.splitlines()) < 165


@pytest.mark.parametrize("node", sorted(DATACLASSES, key=str), ids=lambda node: node.__name__)
def test_every_key_is_told(node: type) -> None:
    told = field_docs(node)
    made = [(field, field.default_factory) for field in dataclasses.fields(node)]
    own = {field.name for field, factory in made if not dataclasses.is_dataclass(factory)}
    assert own - set(told) <= {"model", "agent", "sampler", "trainer", "logger"}  # groups


def run(*args: str, **variables: str) -> str:
    done = subprocess.run(
        args,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def test_the_configuration_that_is_shown_can_be_read_back(tmp_path: Path) -> None:
    overrides = ["env=format", "agent=gspo", "seed=3", "env.level=2"]
    shown = yaml.safe_load(run(sys.executable, "-m", "grpo_envs.run", *overrides, "--cfg", "job"))
    cfg = composed(["env=format", "agent=gspo"])
    cfg.merge_with(shown)
    assert convert(cfg, {}).identity() == compose_run(overrides).identity()


def test_info_shows_where_the_options_come_from() -> None:
    told = run(sys.executable, "-m", "grpo_envs.run", "--info", "all")
    assert "conf" in told
    assert "agent/grpo" in told


def test_the_tab_key_in_bash() -> None:
    """With the line that `--help` says, in a real bash."""
    offered = {
        "grpo-envs env=ma": "env=math",
        "grpo-envs agent.loss.clip_": "agent.loss.clip_high= agent.loss.clip_low=",
        "grpo-envs experiment=l": "experiment=laptop",
        "grpo-envs -m seed=0,1 model=sm": "model=smollm2",
    }
    script = 'eval "$(grpo-envs -sc install=bash)"\n' + "".join(
        f'COMP_LINE="{typed}"; COMP_POINT=${{#COMP_LINE}}; COMP_CWORD={len(typed.split()) - 1}\n'
        'hydra_bash_completion; echo "${COMPREPLY[@]}"\n'
        for typed in offered
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    told = run("bash", "-c", script, PATH=path).splitlines()
    assert [line.strip() for line in told] == [*offered.values()]
