"""What comes from outside (checkpoints, configuration, models, answers) is never run as code."""

import ast
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from grpo_envs.config.composition import compose_run
from grpo_envs.errors import ConfigError, GrpoEnvsError
from grpo_envs.runs.checkpoint import Checkpoints
from grpo_envs.training.environments import make_envs
from tests.support import forked

ROOT = Path(__file__).parents[2]
MODULES = sorted(p for d in ("grpo_envs", "envs", "agents") for p in (ROOT / d).rglob("*.py"))
RUNS_PROGRAMS = {
    "grpo_envs/sandbox/runner.py": {"exec", "compile", "marshal"},
    "grpo_envs/sandbox/wire.py": {"marshal"},  # of the trainer and its keeper: no answer runs in it
    "grpo_envs/sandbox/worker.py": {"marshal"},  # from the trainer into the sandbox only
    "grpo_envs/sandbox/judging.py": {"exec", "compile", "marshal"},
    "grpo_envs/sandbox/testing.py": {"compile", "marshal"},  # and runs nothing
    "grpo_envs/env/grading.py": {"pickle"},  # of what it has pickled itself, to see that it can
    "grpo_envs/env/cluster.py": {"pickle"},  # from and to the user's own nodes, which run our code
    "grpo_envs/env/remote.py": {"pickle"},  # the other end of it
    "agents/grpo_policy/samplers/process.py": {"pickle"},  # of an error, to see that it can be sent
    "agents/grpo_policy/samplers/shared.py": {"pickle"},  # from a run to a child of its own
    "envs/grpo_env_code/layouts.py": {"pickle"},  # of text alone, see test_layouts.py
    "envs/grpo_env_reasoning_gym/inside.py": {"pickle"},  # to itself, within the sandbox
}
"""The inside of the sandbox, where programs of the policy are what is asked for."""
DANGEROUS = {"eval", "exec", "compile", "__import__"}
CODE_FORMATS = {"pickle", "dill", "cloudpickle", "shelve", "marshal"}


def dangers(path: Path) -> Iterator[str]:
    """Yield what a module does that may run data as code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in CODE_FORMATS)
        elif isinstance(node, ast.ImportFrom) and node.module in CODE_FORMATS:
            yield from (str(node.module) for x in node.names if x.name != "UnpicklingError")
        elif isinstance(node, ast.Call):
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            called = ast.unparse(node.func)
            if isinstance(node.func, ast.Name) and called in DANGEROUS:
                yield called
            if called == "torch.load" and said.get("weights_only") != "True":
                yield "torch.load without weights_only"
            if called in ("yaml.load", "yaml.unsafe_load") and "Safe" not in ast.unparse(node):
                yield called
            if said.get("shell") == "True":
                yield "shell=True"
            if said.get("trust_remote_code") == "True":
                yield "trust_remote_code"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_runs_what_it_reads(path: Path) -> None:
    assert set(dangers(path)) <= RUNS_PROGRAMS.get(str(path.relative_to(ROOT)), set())


class Bomb:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('the bomb went off')",))


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step_000001"
    folder.mkdir(parents=True)
    (folder / "trainer.json").write_text('{"step": 1, "config": {}}')
    torch.save({"agent": Bomb()}, folder / "trainer.pt")
    with pytest.raises(ConfigError, match=r"trainer\.pt: .* refused"):
        Checkpoints(tmp_path).load({})


@pytest.mark.parametrize(
    "override",
    [
        "env.rewards={_target_: os.system}",
        "+env._target_=os.system",
        "logger.names=[os:system]",
        "env.grading={_target_: os.system}",
    ],
)
def test_a_configuration_calls_no_code(override: str) -> None:
    with pytest.raises(GrpoEnvsError, match=r"Allowed|added|no "):
        make_envs(compose_run([override]))


def test_interpolations_of_a_configuration_read_only_ours() -> None:
    with pytest.raises(ConfigError):
        compose_run(["env.dataset=${python:1+1}"])


@pytest.mark.parametrize("umask", [0o002, pytest.param(0o077, marks=pytest.mark.slow)])
def test_the_umask_alone_says_who_may_read_a_run(tmp_path: Path, umask: int) -> None:
    """No file is closed to a group that shares its runs, and none is open that should not be."""
    usual = os.umask(umask)
    try:
        done = forked.run(tmp_path, "grpo_envs.run", *_SHORT, "hydra.run.dir=run")
    finally:
        os.umask(usual)
    assert done.returncode == 0, done.stderr
    paths = [path for path in (tmp_path / "run").rglob("*") if not path.is_symlink()]
    assert {"model.safetensors", "trainer.pt", ".lock", "run.log"} <= {p.name for p in paths}
    for path in [tmp_path / "run", *paths]:
        most = 0o777 if path.is_dir() else 0o666
        assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(most & ~umask), path


_SHORT = [
    *("trainer.steps=1", "trainer.prompts_per_step=1", "trainer.eval_problems=1"),
    *("agent.group_size=2", "sampler.max_new_tokens=8"),
    "logger.names=[console,jsonl,csv,tensorboard,report]",
]
