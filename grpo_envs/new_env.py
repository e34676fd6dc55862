"""A package for an environment of your own: `python -m grpo_envs.new_env sort_letters`.

Writes a folder that can be installed, with an environment to change, its configuration, a reward
function, and tests that pass as they are. With `--dataset`, its problems are the rows of a CSV.
With `--tools`, the model calls a function before it answers.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from grpo_envs.env import templates, tool_templates
from grpo_envs.env.installed import ENVS, available
from grpo_envs.errors import ConfigError
from grpo_envs.runtime.files import shown
from grpo_envs.runtime.terminal import exit_on_error

_PYPROJECT = """[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "grpo-env-DASHED"
version = "0.1.0"
description = "NAME: an environment for grpo-envs"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["grpo-envs"]

[project.optional-dependencies]
dev = ["pytest>=8"]

# What grpo-envs finds: env=NAME, env.rewards={NAME_brief: -0.1}, and conf/env/NAME.yaml.
[project.entry-points."grpo_envs.envs"]
NAME = "grpo_env_NAME:CLASSEnv"

[project.entry-points."grpo_envs.rewards"]
NAME_brief = "grpo_env_NAME.rewards:brief"

[project.entry-points."grpo_envs.conf"]
NAME = "grpo_env_NAME.conf"

[tool.hatch.build]
dev-mode-dirs = ["."]  # an editable install is a path: type checkers and editors follow it

[tool.hatch.build.targets.wheel]
packages = ["grpo_env_NAME"]

[tool.pytest.ini_options]
testpaths = ["tests"]
filterwarnings = ["error"]
"""

_README = """# env=NAME

```bash
pip install -e ".[dev]"                              # where grpo-envs is installed
pytest                                               # its tests
python -m grpo_envs.check env=NAME                   # every promise of an environment
python -m grpo_envs.run env=NAME env.length=6        # train
```

`grpo_env_NAME/__init__.py` is the environment: `draw` makes a problem, `score` rewards an answer.
"""

_ENV = '''"""Sort the letters of a word.

Task: write the letters of a made-up word in alphabetical order.
Answer: `<answer>...</answer>`, after at most one `<think>` block.
Reward: `correct` for the sorted letters, `format` for exactly one answer and nothing beside it.
"""

import random
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from grpo_envs import Problem, Reward, TextEnv
from grpo_envs.errors import require
from grpo_envs.graders.text import after_think
from grpo_envs.seeding import split_of

__all__ = ["CLASSEnv"]

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class CLASSEnv(TextEnv):
    """Words whose letters are to be sorted."""

    parts: ClassVar[Mapping[str, float]] = {"correct": 1.0, "format": 0.1}
    system_prompt = "You may think in <think></think>. Answer in <answer></answer>."

    def __init__(
        self,
        split: str = "train",
        *,
        length: int = 5,
        rewards: dict[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment; the keywords are `env.*` keys of a run.

        Args:
            split: `train` or `eval`.
            length: Letters of a word.
            rewards: Weights of `correct` and `format`.
            render_mode: None or `ansi`.
        """
        super().__init__(split, rewards=rewards, render_mode=render_mode)
        require(3 <= length <= len(LETTERS), "env.length", length, f"3 to {len(LETTERS)}")
        self.length = length

    def draw(self, rng: random.Random, split: str) -> Problem:
        """Draw words until one belongs to `split` and is not sorted already."""
        while True:
            word = "".join(rng.sample(LETTERS, self.length))
            gold = "".join(sorted(word))
            if split_of(word) == split and word != gold:
                return Problem(
                    prompt=f"Write the letters of {word} in alphabetical order.",
                    gold=gold,
                    solution=f"<answer>{gold}</answer>",
                )

    def score(self, problem: Problem, answer: str) -> Reward:
        """Compare the whole answer, so that a list of guesses earns nothing."""
        found = re.fullmatch(r"\\s*<answer>([^<]*)</answer>\\s*", after_think(answer) or "")
        right = found is not None and found[1].strip() == problem.gold
        return Reward(parts={"correct": float(right), "format": float(found is not None)})
'''

_REWARDS = '''"""A reward function for any environment: `env.rewards={NAME_brief: -0.1}`."""

from grpo_envs import Problem


def brief(problem: Problem, answer: str, *, most: int = 40) -> float:
    """Return 0 for answers of at most `most` characters, rising to 1 for twice as many."""
    return min(1.0, max(0.0, len(answer) / most - 1))
'''

_TESTS = '''"""The environment keeps every promise, and rewards what it should."""

import gymnasium
import pytest

import grpo_envs
from grpo_env_NAME import CLASSEnv
from grpo_env_NAME.rewards import brief


@pytest.mark.parametrize("length", [3, 5, 12])
def test_it_keeps_every_promise(length: int) -> None:
    grpo_envs.check_env(CLASSEnv(length=length))


def test_it_is_found_by_its_name() -> None:
    env = gymnasium.make("grpo_envs/NAME-v0", split="eval", length=7)
    prompt, info = env.reset(seed=1)
    assert "alphabetical" in prompt
    _, reward, terminated, truncated, info = env.step("<answer>?</answer>")
    assert float(reward) == pytest.approx(0.1)
    assert terminated
    assert not truncated
    assert info["reward/correct"] == 0.0


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        pytest.param("<answer>abc</answer>", 1.0, id="sorted"),
        pytest.param("<think>a, b, c</think><answer> abc </answer>", 1.0, id="after a thought"),
        pytest.param("<answer>acb</answer>", 0.0, id="unsorted"),
        pytest.param("<answer>abc</answer><answer>acb</answer>", 0.0, id="two answers"),
        pytest.param("abc", 0.0, id="no tags"),
    ],
)
def test_what_an_answer_earns(answer: str, correct: float) -> None:
    problem = grpo_envs.Problem(prompt="", gold="abc", solution="<answer>abc</answer>")
    assert CLASSEnv().score(problem, answer).parts["correct"] == correct


def test_a_long_answer_is_not_brief() -> None:
    problem = CLASSEnv().problem(1)
    assert [brief(problem, "x" * n, most=10) for n in (0, 10, 15, 99)] == [0.0, 0.0, 0.5, 1.0]
'''

_YAML = """# Words whose letters are to be sorted.
name: NAME
length: 5
"""

FILES = {
    "pyproject.toml": _PYPROJECT,
    "README.md": _README,
    "grpo_env_NAME/__init__.py": _ENV,
    "grpo_env_NAME/rewards.py": _REWARDS,
    "grpo_env_NAME/py.typed": "",
    "grpo_env_NAME/conf/__init__.py": '"""Hydra options, found through the entry point."""\n',
    "grpo_env_NAME/conf/env/NAME.yaml": _YAML,
    "tests/test_NAME.py": _TESTS,
}
"""The files of a package; NAME, DASHED and CLASS stand for the environment's name in three
spellings."""

DATASET_FILES = FILES | {
    "README.md": templates.README,
    "grpo_env_NAME/__init__.py": templates.ENV,
    "grpo_env_NAME/questions.csv": templates.QUESTIONS,
    "grpo_env_NAME/conf/env/NAME.yaml": templates.YAML,
    "tests/test_NAME.py": templates.TESTS,
}
"""The same for an environment whose problems are rows."""

TOOLS_FILES = FILES | {
    "README.md": tool_templates.README,
    "grpo_env_NAME/__init__.py": tool_templates.ENV,
    "grpo_env_NAME/conf/env/NAME.yaml": tool_templates.YAML,
    "tests/test_NAME.py": tool_templates.TESTS,
}
"""The same for an environment with a tool."""


def write(name: str, parent: Path, files: Mapping[str, str] = FILES) -> Path:
    """Write the package `grpo-env-<name>` into `parent`; return its folder.

    Args:
        name: Name of the environment.
        parent: The folder to write into.
        files: The files to write: `FILES`, `DATASET_FILES` or `TOOLS_FILES`.

    Raises:
        ConfigError: `name` is not allowed or is taken, or the folder exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        close = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_").lstrip("0123456789_")
        hint = f" Did you mean {close!r}?" if close else ""
        raise ConfigError(
            f"{name!r}: not a name for an environment. Allowed: lower-case letters, digits and "
            f"single underscores, a letter first.{hint}"
        )
    if name in available(ENVS):
        raise ConfigError(f"env={name} is installed already ({available(ENVS)[name].value}).")
    folder = parent / f"grpo-env-{name.replace('_', '-')}"
    if folder.exists():
        raise ConfigError(f"{shown(folder)} exists already; nothing was written.")
    spelt = {
        "NAME": name,
        "DASHED": name.replace("_", "-"),
        "CLASS": "".join(word.capitalize() for word in name.split("_")),
    }
    for path, text in files.items():
        file = folder / _spell(path, spelt)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_spell(text, spelt), encoding="utf-8")
    return folder


def _spell(text: str, spelt: dict[str, str]) -> str:
    return re.sub("|".join(spelt), lambda match: spelt[match[0]], text)


@exit_on_error()
def main() -> None:
    """Read the options, write the folder, say what to do next."""
    parser = argparse.ArgumentParser(prog="python -m grpo_envs.new_env", description=__doc__)
    parser.add_argument("name", help="name of the environment: env=NAME")
    parser.add_argument(
        "--out", type=Path, default=Path(), help="folder to write into (the working folder)"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--dataset", action="store_true", help="its problems are rows of a file")
    kind.add_argument("--tools", action="store_true", help="the model calls a function")
    options = parser.parse_args()
    files = DATASET_FILES if options.dataset else TOOLS_FILES if options.tools else FILES
    folder = write(options.name, options.out.absolute(), files)
    print(f"{shown(folder)} is written. Next:")
    print(f'  cd {shown(folder)} && pip install -e ".[dev]" && pytest')
    print(f"  python -m grpo_envs.run env={options.name}")


if __name__ == "__main__":
    main()
