"""`python -m grpo_envs.engine`: what it starts, and mistakes. Nothing is started here."""

import ast
import sys
from pathlib import Path

import pytest

from grpo_envs import engine
from grpo_envs.errors import ConfigError
from grpo_policy.models import TINY
from grpo_policy.samplers.vllm import own
from grpo_policy.samplers.vllm.own import WORKER, Engine, environment


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_the_command_is_what_a_run_needs() -> None:
    words = Engine(model="m", python="p", port=1, dtype="fp32", max_length=64).command()
    assert words[:3] == ["p", "-m", "vllm.entrypoints.openai.api_server"]
    assert option(words, "--dtype") == "float32"
    assert option(words, "--max-model-len") == "64"
    assert option(words, "--logprobs-mode") == "processed_logprobs"
    assert "--enforce-eager" in words
    assert "--enable-lora" not in words


@pytest.mark.parametrize(("rank", "taken"), [(1, "8"), (8, "8"), (9, "16"), (300, "320")])
def test_adapters_have_a_rank_that_vllm_takes(rank: int, taken: str) -> None:
    words = Engine(model="m", python="p", port=1, lora_rank=rank).command()
    assert option(words, "--max-lora-rank") == taken


def test_a_rank_that_it_does_not_take_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Engine(model="m", python="p", port=1, lora_rank=513).command()
    assert str(caught.value) == "model.lora.rank=513 with sampler=vllm. Allowed: up to 512."


def test_a_gpu_compiles_what_need_not_be_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_GPUS", (__file__,))
    assert "--enforce-eager" not in Engine(model="m", python="p", port=1, dtype="bf16").command()
    assert "--enforce-eager" in Engine(model="m", python="p", port=1, dtype="fp32").command()


def test_a_user_chooses_numbers_and_not_what_is_needed() -> None:
    given = {"VLLM_CPU_KVCACHE_SPACE": "8", "VLLM_SERVER_DEV_MODE": "0", "PYTHONPATH": "mine"}
    found = environment(given)
    assert found["VLLM_CPU_KVCACHE_SPACE"] == "8"
    assert found["VLLM_SERVER_DEV_MODE"] == "1"
    assert found["PYTHONPATH"].split(":") == [str(WORKER), "mine"]


def test_what_runs_in_vllm_needs_nothing_of_ours() -> None:
    """Its interpreter has no grpo-envs: this folder alone is in its path."""
    found = {}
    for module in WORKER.glob("*.py"):
        tree = ast.parse(module.read_text(encoding="utf-8"))
        names = {
            (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        packages = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
        found[module.stem] = packages
    assert found == {
        "grpo_envs_weights": {"grpo_envs_group", "torch", "safetensors", "vllm"},
        "grpo_envs_group": {"torch"},  # runs use it, too, and have no vLLM
    }


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--port", "0"], "--port=0. Allowed: 1 to 65535."),
        (["--lora-rank", "-1"], "--lora-rank=-1. Allowed: 0 (off) or more."),
        (["--max-length", "0"], "--max-length=0. Allowed: 1 or more."),
        (["--python", "/nowhere"], "sampler.python=/nowhere: No such file or directory."),
        (
            ["--python", sys.executable],
            f"sampler.python={sys.executable}: it has no vLLM. Allowed: an interpreter with vLLM "
            "(also GRPO_ENVS_VLLM_PYTHON=...), or sampler.urls=[...] of servers; see "
            "docs/engines.md.",
        ),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["engine", "--model", str(TINY), *words])
    with pytest.raises(SystemExit) as caught:
        engine.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"grpo_envs: {line}\n"


def test_a_run_stands_for_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = tmp_path / "run" / "checkpoints" / "last"
    last.mkdir(parents=True)
    found: list[Engine] = []
    monkeypatch.setattr(engine, "find_python", lambda named: "p")

    def serve(what: Engine) -> int:
        found.append(what)
        return 0

    monkeypatch.setattr(engine, "serve", serve)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # of this process, which goes on
    flags = ["--", "--gpu-memory-utilization=0.4"]
    monkeypatch.setattr(sys, "argv", ["engine", "--model", str(tmp_path / "run"), *flags])
    with pytest.raises(SystemExit):
        engine.main()
    assert found[0].model == str(last)
    assert found[0].flags == flags[1:]
