"""What README and pages say is true: commands compose, code runs, tables have defaults."""

import re
import runpy
import shlex
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import pytest

from grpo_envs.config.composition import compose_run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
KEYS = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
PAGES = [
    *(ROOT / "README.md", ROOT / "agents" / "README.md", ROOT / "envs" / "README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXT = "".join(page.read_text(encoding="utf-8") for page in PAGES)
OTHERS = ("interop.md", "serving.md")
"""Their Python needs packages of other trainers: tests/interop runs it where they are."""
OWN = "".join(page.read_text(encoding="utf-8") for page in PAGES if page.name not in OTHERS)
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip()
    for kind, block in BLOCKS
    if kind == "bash"
    for line in re.split(r"\n|&&", block)
    if "grpo_envs.run" in line
    and "--" not in line.partition("grpo_envs.run")[2]  # test_help.py is about --help and --cfg
    and "env=sort_letters" not in line  # which test_third_party.py has new_env write, and runs
]


def test_a_command_that_trains_stands_in_the_first_lines() -> None:
    lines = README.splitlines()
    assert any("python -m grpo_envs.run env=math model=qwen" in line for line in lines[:17])


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_every_run_composes(command: str) -> None:
    """The quick start itself is run by test_learning.py; here each configuration is checked."""
    words = shlex.split(command)
    overrides = [w for w in words[words.index("grpo_envs.run") + 1 :] if w != "-m"]
    single = [re.sub(r"=([^,{\[(]*),.*", r"=\1", word) for word in overrides if "tag(" not in word]
    assert compose_run(single).trainer.steps > 0


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", OWN, flags=re.DOTALL))
def test_every_piece_of_code_runs(block: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(block, encoding="utf-8")
    runpy.run_path(str(script))


def test_it_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) <= 200


def test_the_environment_fits_in_forty_lines() -> None:
    block = next(b for kind, b in BLOCKS if kind == "python")
    assert len(block.splitlines()) <= 40


def test_every_default_in_the_table_is_the_default() -> None:
    cfg = compose_run([])
    table = dict(re.findall(r"^\| `([\w.]+)`(?:, [^|]*)? \| ([^|]+) \|", KEYS, flags=re.MULTILINE))
    expected = {
        "agent.group_size": cfg.agent.group_size,
        "agent.loss.beta": cfg.agent.loss.beta,
        "agent.loss.clip_low": cfg.agent.loss.clip_low,
        "agent.micro_batch_tokens": cfg.agent.micro_batch_tokens,
        "sampler.temperature": cfg.sampler.temperature,
        "trainer.steps": cfg.trainer.steps,
        "trainer.prompts_per_step": cfg.trainer.prompts_per_step,
    }
    for key, value in expected.items():
        assert table[key].split(",")[0] == str(value), key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_linked_file_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_every_value_that_the_agents_page_offers_is_allowed() -> None:
    """Each `code` word of the values column of the table is a value or a key of its choice."""
    page = PAGES[1].read_text(encoding="utf-8")
    row = r"^\| [^|]+ \| `([\w.]+)`[^|]* \| ((?:`\w+`(?: \([^)]*\))?(?:, )?)+) \|"
    choices = re.findall(row, page, flags=re.MULTILINE)
    assert len(choices) >= 5
    offered = {
        key: re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", values)) for key, values in choices
    }
    for some in zip_longest(*offered.values()):  # the first of each key, the second of each, ...
        overrides = [f"{key}={value}" for key, value in zip(offered, some, strict=True) if value]
        extra = ["agent.loss.kl_in=reward"] if "agent.loss.kl=k1" in overrides else []
        compose_run([*overrides, *extra])


SMALL = [
    *("trainer.steps=1", "trainer.prompts_per_step=8", "trainer.eval_problems=2"),
    *("agent.group_size=2", "sampler.max_new_tokens=8"),
]
CANNOT = {
    "Qwen/": "the hub",
    "model.size=1.7b": "the hub",
    "smollm2": "a package that the tests do not install",
    "one_gpu": "a GPU",
    "several_gpus": "GPUs",
    "submitit_slurm": "Slurm",
    "ray://": "a cluster",
    "gsm8k": "the hub",
    "mbpp": "the hub",
    "rows.jsonl": "somebody's file",
    "wandb": "an account, or WANDB_MODE",
    "resume=outputs": "a run that is there",
    "model.path=multirun": "a run that is there",
    "my_package": "somebody's package",
    "sort_letters": "a package that test_third_party.py has new_env write",
}


LAUNCHERS = {  # each with any port that is free: tests run side by side
    "accelerate launch": ["-m", "accelerate.commands.launch", "--main_process_port=0"],
    "torchrun": ["-m", "torch.distributed.run", "--standalone"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [command for command in dict.fromkeys(COMMANDS) if not any(word in command for word in CANNOT)],
)
def test_every_run_runs(command: str, tmp_path: Path) -> None:
    """As it stands, but for its size; what needs something that is not here composes, above."""
    words = [word for word in shlex.split(command) if not word.startswith("hydra.run.dir=")]
    at = words.index("grpo_envs.run")
    name = next((name for name in LAUNCHERS if " ".join(words).startswith(f"{name} ")), "")
    launcher = [*LAUNCHERS[name], *words[len(name.split()) : at - 1]] if name else []
    trials = ["hydra.sweeper.n_trials=2"] if "hydra/sweeper=optuna" in words else []
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "grpo_envs.run", *words[at + 1 :], *SMALL, *trials],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
