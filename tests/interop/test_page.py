"""The code of docs/interop.md runs as it stands, with the bundled model and few steps."""

from __future__ import annotations

import os
import re
import subprocess
import warnings
from pathlib import Path

import pytest

from grpo_policy.models import TINY
from tests.interop.test_verifiers import PYTHON

PAGE = Path(__file__).parents[2] / "docs" / "interop.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
SMALL = "max_steps=1, use_cpu=True, bf16=False, report_to=[], max_completion_length=64,"
LOAD = """
import sys
from verifiers.v1.utils import loaders

config = loaders.resolve_env_config(
    {"taskset": {"id": "my_task", "env": sys.argv[1], "keywords": {"level": 2}}}
)
env = loaders.load_environment(config)
(task,) = env.taskset.take(1)
print(type(env).__name__, task.data.row["env"], task.data.prompt)
"""


@pytest.mark.slow
def test_trl_trains_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    blocks = [block for block in BLOCKS if "trainer" in block]
    assert len(blocks) == 2
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL's, about Transformers' names
        for block in blocks:
            code = block.replace("Qwen/Qwen3-0.6B", str(TINY)).replace("max_steps=60,", SMALL)
            assert code.count(SMALL) == 1
            exec(code, names)  # noqa: S102  the page's


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="VERIFIERS_PYTHON names no interpreter")
def test_verifiers_loads_the_module_of_the_page(tmp_path: Path) -> None:
    write_module(tmp_path)
    for name, outcome in (("countdown", "GrpoEnv countdown Make "), ("", "no env ''. Allowed:")):
        done = subprocess.run(
            [PYTHON, "-c", LOAD, name], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert outcome in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="VERIFIERS_PYTHON names no interpreter")
def test_vf_eval_shows_a_mistake_without_a_traceback(tmp_path: Path) -> None:
    write_module(tmp_path)
    done = subprocess.run(
        [Path(PYTHON).parent / "vf-eval", "my_task", "--env.taskset.env", "countdwn"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no env 'countdwn'" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def write_module(folder: Path) -> None:
    """Write the page's taskset package."""
    (block,) = [block for block in BLOCKS if "verifiers" in block]
    (folder / "my_task.py").write_text(block, encoding="utf-8")
