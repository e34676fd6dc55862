"""Agents and samplers of other packages: their own keys, found by entry point, loaded on use."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from grpo_envs.config.composition import compose_run, composed
from grpo_envs.config.help import help_text
from grpo_envs.errors import ConfigError, PluginError

SOURCE = '''
"""An agent and a sampler with keys of their own. Nothing here is a real agent."""

from dataclasses import dataclass, field
from typing import ClassVar

from grpo_agent.config import GrpoConfig
from grpo_envs.config.agent import AgentConfig
from grpo_envs.config.model import SamplerConfig
from grpo_envs.errors import require


@dataclass(kw_only=True, slots=True)
class Critic:
    """The value model."""

    depth: int = 2
    """Layers of the value model."""


@dataclass(kw_only=True, slots=True)
class PacedConfig(AgentConfig):
    """Keys that GRPO does not have."""

    gamma: float = 0.99
    """Discount per token."""
    critic: Critic = field(default_factory=Critic)

    def __post_init__(self):
        require(0 <= self.gamma <= 1, "agent.gamma", self.gamma, "0 to 1")

    def check(self, run):
        require(run.trainer.steps < 1000, "trainer.steps", run.trainer.steps, "less than 1000")


class Paced:
    Config = PacedConfig


class Relative:
    Config = GrpoConfig


class NoKeys:
    """An agent of the time before agents had keys."""


@dataclass(kw_only=True, slots=True)
class ServerConfig(SamplerConfig):
    """Keys that our sampler does not have."""

    main_keys: ClassVar[tuple[str, ...]] = ("urls",)
    urls: list[str] = field(default_factory=list)
    """Addresses of the servers that sample."""


class Server:
    Config = ServerConfig
'''
ENTRY_POINTS = """
[grpo_envs.agents]
paced = keyed:Paced
relative = keyed:Relative
keyless = keyed:NoKeys
absent = no_such_module:Agent

[grpo_envs.samplers]
server = keyed:Server

[grpo_envs.conf]
keyed = keyed_conf
"""
Options = Callable[[str, str], None]


@pytest.fixture
def option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """Install the package; return a function that adds an option file to it."""
    info = tmp_path / "keyed-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: keyed\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "keyed.py").write_text(SOURCE)
    (tmp_path / "keyed_conf" / "agent").mkdir(parents=True)
    (tmp_path / "keyed_conf" / "__init__.py").write_text('"""Options."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("keyed", "keyed_conf"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def write(path: str, text: str) -> None:
        (tmp_path / "keyed_conf" / f"{path}.yaml").write_text(text)

    return write


def refusal(*overrides: str) -> str:
    with pytest.raises((ConfigError, PluginError)) as caught:
        compose_run(list(overrides))
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.usefixtures("option")
def test_an_agent_has_keys_of_its_own() -> None:
    cfg = compose_run(["agent=paced", "agent.gamma=0.5", "agent.critic.depth=3"])
    assert type(cfg.agent).__name__ == "PacedConfig"
    assert (cfg.agent.name, cfg.agent.gamma, cfg.agent.critic.depth) == ("paced", 0.5, 3)
    assert (cfg.agent.group_size, cfg.agent.resamplings) == (1, 0)
    assert cfg.identity()["agent.critic.depth"] == 3


@pytest.mark.usefixtures("option")
@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["agent=paced", "agent.gama=1"],
            "no agent.gama=1. Allowed: agent.name, agent.group_size, agent.gamma, agent.critic. "
            "Did you mean 'agent.gamma'?",
        ),
        (["agent=paced", "agent.gamma=2"], "agent.gamma=2.0. Allowed: 0 to 1."),
        (["agent=paced", "agent.gamma=much"], "agent.gamma=much. Allowed: a number."),
        (["agent=paced", "agent.loss.beta=0"], "no agent.loss"),
        (["agent=paced", "trainer.steps=1000"], "trainer.steps=1000. Allowed: less than 1000."),
        (["agent=ppaced"], "Did you mean 'paced'?"),
        (["agent=keyless"], "'keyless' (keyed:NoKeys) has no Config. Allowed: a dataclass that"),
        (["agent=absent"], "'absent' (no_such_module:Agent) cannot be loaded: ModuleNotFoundError"),
        (
            ["agent.name=nobody"],
            "no agent 'nobody'. Allowed: absent, grpo, keyless, paced, ppo, relative",
        ),
        (
            ["agent.name=paced"],
            "agent.name=paced with the keys of GrpoConfig. Allowed: those of Paced",
        ),
        (["sampler=server", "sampler.url=x"], "Did you mean 'sampler.urls'?"),
        (["sampler.name=server"], "sampler.name=server with the keys of SamplerConfig."),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_its_mistakes_are_answered_as_ours(overrides: list[str], line: str) -> None:
    assert line in refusal(*overrides)


@pytest.mark.usefixtures("option")
def test_help_lists_its_keys() -> None:
    text = help_text(composed(["agent=paced", "sampler=server"]))
    for row in (
        "  agent.gamma=0.99                Discount per token.",
        "  agent.critic.depth=2            Layers of the value model.",
        "  agent.group_size=1              Completions per problem (G).",
        "  sampler.urls=[]                 Addresses of the servers that sample.",
    ):
        assert row in text
    assert "sampler.temperature" not in text
    assert "agent.loss" not in text


@pytest.mark.usefixtures("option")
def test_only_the_agent_that_is_chosen_is_imported() -> None:
    compose_run(["agent=dapo"])
    assert "keyed" not in sys.modules
    compose_run(["agent=paced"])
    assert "keyed" in sys.modules


def test_an_option_file_takes_the_schema_of_its_agent(option: Options) -> None:
    option("agent/patient", "# Paced that waits.\ndefaults: [paced, _self_]\ngamma: 1.0\n")
    cfg = compose_run(["agent=patient"])
    assert (cfg.agent.name, cfg.agent.gamma) == ("paced", 1.0)


EXTENDS_GRPO = "# Ours.\ndefaults: [grpo, _self_]\ngroup_size: 4\n"


def test_an_option_that_would_train_another_agent_is_refused(option: Options) -> None:
    option("agent/relative", EXTENDS_GRPO)
    assert refusal("agent=relative") == (
        "agent=relative has agent.name=grpo, and 'relative' is installed itself. Write "
        "`name: relative` into agent/relative.yaml, or give agent=grpo."
    )
    # Who names the agent in the command has chosen it.
    assert compose_run(["agent=relative", "agent.name=grpo"]).agent.name == "grpo"
    option("agent/relative", EXTENDS_GRPO + "name: relative\n")
    cfg = compose_run(["agent=relative"])
    assert (cfg.agent.name, cfg.agent.group_size) == ("relative", 4)


def test_an_option_with_the_keys_of_another_agent_is_refused(option: Options) -> None:
    option("agent/paced", EXTENDS_GRPO + "name: paced\n")
    assert refusal("agent=paced") == (
        "agent.name=paced with the keys of GrpoConfig. Allowed: those of PacedConfig: give "
        "agent=paced, or begin the option file's defaults with `/schema/agent/paced@_here_`."
    )
    option("agent/paced", "# Paced.\ndefaults: [/schema/agent/paced@_here_, _self_]\ngamma: 0.9\n")
    assert compose_run(["agent=paced"]).agent.gamma == 0.9


def test_a_sampler_has_keys_of_its_own(option: Options) -> None:
    cfg = compose_run(["sampler=server", "sampler.urls=[http://127.0.0.1:8000]"])
    assert (cfg.sampler.name, cfg.sampler.urls) == ("server", ["http://127.0.0.1:8000"])
    assert cfg.sampler.temperature == 1.0
    shown = OmegaConf.to_container(composed(["sampler=server"]).sampler)
    assert isinstance(shown, dict)
    assert shown["urls"] == []


def test_the_shell_completes_its_keys(option: Options, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv[0] = 'grpo-envs'; "
        "from grpo_envs.run import main; main()"
    )
    line = "grpo-envs agent=paced agent.gam"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "-sc", "query=bash"],
        env={**os.environ, "COMP_LINE": line},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["agent.gamma="]


@pytest.mark.parametrize("word", ["trainer.objective=reward/mean"])
def test_a_renamed_key_answers_with_its_new_name(word: str) -> None:
    assert refusal(word) == (
        "trainer.objective is now trainer.sweep_metric. Write trainer.sweep_metric=reward/mean."
    )
