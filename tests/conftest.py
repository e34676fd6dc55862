"""What tests share: the bundled model, a random one small enough for float64, files of rows.

What is heavy is imported where it is used: pytest-xdist loads this file before it starts the
processes that run tests, and would have them wait.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from grpo_envs.errors import ConfigError
from grpo_envs.runtime.launch import cores

if TYPE_CHECKING:
    import torch

    from grpo_policy.policy import Policy

Write = Callable[[str, Sequence[Mapping[str, Any]]], str]

# Tests run side by side, one process a core: threads of their own would only be in the way.
os.environ["OMP_NUM_THREADS"] = "1"  # here, and in the programs that tests start
# Modules are compiled once, and not by each of the hundreds of processes that tests start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["GRPO_ENVS_PROGRESS"] = "0"  # what takes two seconds on a busy machine says nothing more


LIGHT = find_spec("torch") is None
"""Whether only the light core is installed: what needs more is skipped."""

_EXTRA = re.compile(r'pip install -e "\.\[[^"]*"')

collect_ignore = ["third_party"]  # packages that test_third_party.py installs
_FIRST = (
    *("whole/test_third_party", "graders/math/test_workers", "sandbox/test_pool"),
    *("commands/test_run", "envs/test_reasoning_gym", "sandbox/test_hostile"),
    *("runtime/test_processes", "whole/test_faults", "training/test_trainer"),
    *("env/test_conformance", "commands/test_sweeps", "loggers/test_trackers"),
)


def pytest_xdist_auto_num_workers() -> int:
    """Start a process more than there are cores: many tests wait, for a time limit or a program."""
    return cores() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none of them is left over for one core."""
    order = {f"tests/{name}.py": place for place, name in enumerate(_FIRST)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))
    if LIGHT:
        return
    import torch

    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA GPU here"))
    if not vllm_python():
        for item in items:
            if item.get_closest_marker("engine"):
                item.add_marker(pytest.mark.skip(reason="no vLLM here: .ci/engine installs it"))


class Light(pytest.Module):
    """A file of tests, which is skipped where it imports what the light core has not."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return super().collect()
        except self.CollectError as error:
            if missing := missing_package(error.__cause__):
                pytest.skip(f"needs {missing}", allow_module_level=True)
            raise


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    """Let files that the light core cannot import be skipped; with the extras nothing is."""
    return Light.from_parent(parent, path=module_path) if LIGHT else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have a test skipped that imports what the light core has not."""
    report = yield
    if LIGHT and call.excinfo and (missing := missing_package(call.excinfo.value)):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1] or 0, f"needs {missing}")
    return report


def missing_package(error: BaseException | None) -> str:
    """Return what is not installed and made an import fail, or a call of ours; or ''."""
    while error is not None:
        name = error.name if isinstance(error, ModuleNotFoundError) else None
        if name and find_spec(package := name.partition(".")[0]) is None:
            return package
        if isinstance(error, ConfigError) and (asked := _EXTRA.search(str(error))):
            return asked[0]
        error = error.__cause__ or error.__context__
    return ""


def pytest_collection_finish() -> None:
    """What is there before the first test stays: the garbage collector need not go through it."""
    gc.collect()
    gc.freeze()


def vllm_python() -> str:
    """The interpreter that has vLLM: the one that is named, or that .ci/engine has made; or ''."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    kept = Path(os.environ.get("CI_VENVS") or Path(cache) / "grpo-envs-ci")
    made = [str(mark.parent / "bin" / "python") for mark in kept.glob("vllm-*/.complete")]
    return os.environ.get("GRPO_ENVS_VLLM_PYTHON") or next(iter(sorted(made)), "")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where a test of equality runs."""
    import torch

    return torch.device(request.param)


@pytest.fixture
def tiny() -> Policy:
    """The bundled model: greedy answers, real rewards."""
    return deepcopy(loaded_tiny())


@cache
def loaded_tiny() -> Policy:
    """The bundled model, loaded once per process."""
    from grpo_policy.models import TINY, load_policy

    return load_policy(str(TINY))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write rows as JSONL; what `datasets` caches goes where they are."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def write(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def random_policy() -> Policy:
    """An untrained float64 Qwen3 with the bundled tokenizer: exact comparisons."""
    return make_random_policy()


def make_random_policy() -> Policy:
    """The same one in every process."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from grpo_policy.models import TINY
    from grpo_policy.policy import Policy

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    policy = Policy(Qwen3ForCausalLM(config).double(), tokenizer)
    policy.share_prompts = False  # which is test_packing.py's
    return policy
