"""The code of docs/interop.md runs as it stands, with the bundled model and few steps."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import warnings
from pathlib import Path

import pytest

from grpo_envs.env.plugins import make
from grpo_policy.models import TINY
from tests.interop.test_verifiers import PYTHON
from tests.support.judge_server import Said, judging

PAGE = Path(__file__).parents[2] / "docs" / "interop.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
SHELL = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
SAID = "<think>1</think><answer>1</answer>"
ABOUT = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "it"}
DELTAS: list[tuple[dict[str, str], str | None]] = [
    ({"role": "assistant", "content": SAID}, None),
    ({}, "stop"),
]
CHUNKS = [
    {**ABOUT, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]}
    for delta, end in DELTAS
]
STREAM = b"".join(
    b"data: " + line.encode() + b"\n\n" for line in [*map(json.dumps, CHUNKS), "[DONE]"]
)
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
    for name, outcome in (
        ("countdown", "GrpoEnv countdown Make "),
        ("", "--env.taskset.env is missing."),
    ):
        done = subprocess.run(
            [PYTHON, "-c", LOAD, name], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert outcome in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="VERIFIERS_PYTHON names no interpreter")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(["--env.taskset.env", "countdwn"], "no env 'countdwn'", id="unknown"),
        pytest.param([], "--env.taskset.env is missing. Allowed: calculator, ", id="missing"),
    ],
)
def test_vf_eval_shows_a_mistake_without_a_traceback(
    tmp_path: Path, arguments: list[str], line: str
) -> None:
    write_module(tmp_path)
    done = subprocess.run(
        [Path(PYTHON).parent / "vf-eval", "my_task", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert line in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="VERIFIERS_PYTHON names no interpreter")
@pytest.mark.parametrize("name", ["countdown", "guess"])
def test_vf_eval_plays_with_a_chat_model(tmp_path: Path, name: str) -> None:
    """The command of the page, with a stand-in for the model."""
    write_module(tmp_path)
    (line,) = [block for block in SHELL if "vf-eval" in block]
    words = shlex.split(line.replace("\\\n", ""))[1:]
    with judging(
        lambda _: Said(raw=STREAM, headers={"Content-Type": "text/event-stream"})
    ) as model:
        given = {
            "countdown": name,
            "128": "2",
            "MODEL": "it",
            "http://127.0.0.1:8000/v1": model.url,
        }
        words = [given.get(word, word) for word in words]
        if name == "guess":
            at = words.index("--env.taskset.keywords.level")
            del words[at : at + 2]
        done = subprocess.run(
            [Path(PYTHON).parent / words[0], *words[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": ".", "PRIME_API_KEY": "none"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.rglob("traces.jsonl")
    played = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    scores = [trace["rewards"]["reward"]["score"] for each in played for trace in each["traces"]]
    env = make(name, **({"level": 2} if name == "countdown" else {}))
    earned = []
    for seed in range(2):
        env.reset(seed=seed)
        earned.append(sum(float(env.step(SAID)[1]) for _ in range(env.max_turns)))
    assert sorted(scores) == sorted(earned)
    assert min(earned) > 0
    assert len(model.requests) == 2 * env.max_turns


def write_module(folder: Path) -> None:
    """Write the page's taskset package."""
    (block,) = [block for block in BLOCKS if "verifiers" in block]
    (folder / "my_task.py").write_text(block, encoding="utf-8")
