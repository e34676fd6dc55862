"""`python -m grpo_envs.plan`: what it prints, what it advises, and how it refuses a mistake."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
)

from grpo_envs import plan
from grpo_envs.plan import shown_size as mib
from grpo_policy.models import TINY as TINY_FOLDER

TINY = ("model.size=tiny", "trainer.device=cpu")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["plan", *words])
    try:
        plan.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def row(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return re.split(r"\s{2,}", line)


def test_it_prints_each_part_in_both_phases(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *TINY, "sampler.max_new_tokens=64", "--memory", "8GiB") == 0
    printed = capsys.readouterr().out
    head, *_ = printed.splitlines()
    assert head == "the bundled tiny Qwen3: 0.9 M parameters, all trained, fp32, on the CPU"
    assert row(printed, "weights") == ["weights", "3.3 MiB", "3.3 MiB", "4 bytes a parameter"]
    assert row(printed, "gradients")[1] == "-"
    assert row(printed, "cache")[2:] == ["-", "128 rows x 320 tokens, 2 KiB a token"]
    assert row(printed, "memory: ") == ["memory: 8.0 GiB"]
    assert "fit" not in printed


def test_keys_that_make_it_fit_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*TINY, "sampler.max_new_tokens=64", "--memory", "100MiB")
    assert run(monkeypatch, *words) == 1
    said = re.search(r"^([\d.]+ MiB) with (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert said is not None
    assert run(monkeypatch, *words, *said[2].split()) == 0
    together = row(capsys.readouterr().out, "together")
    assert said[1] in together


def test_an_engine_comes_with_the_arithmetic_of_its_gpus(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*TINY, "sampler.max_new_tokens=64", "sampler=vllm", "trainer.prompts_per_step=4")
    assert run(monkeypatch, *words, "--decode-rate", "512", "--answer-tokens", "32") == 0
    printed = capsys.readouterr().out
    assert "cache" not in printed
    assert "sampling: 1,024 tokens a step at 512 a second (given): 2.0 s of a GPU" in printed
    assert re.search(r"^update: 0 TFLOP a step at 300 a second \(assumed\)", printed, re.MULTILINE)
    assert "trainer.lag=0, 8 GPUs: 7 GPUs sample, 1 train; a step takes 0.3 s" in printed
    assert run(monkeypatch, *TINY) == 0
    assert "GPU" not in capsys.readouterr().out, "one process does both"


def test_models_that_only_score_have_a_row_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A teacher, the average that a reference is, a critic; reward models here and elsewhere."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        architectures=["LlamaForSequenceClassification"],
    )
    config.num_labels = 1
    config.save_pretrained(tmp_path)
    judge = AutoModelForSequenceClassification.from_config(config)
    scored = sum(p.numel() for p in judge.parameters())
    rewards = [
        f"env.of.{env}={{weight: 1, rewards: {{rm: {{model: {tmp_path}, device: {place}}}}}}}"
        for env, place in (("math", "auto"), ("countdown", "auto"), ("format", "cuda:1"))
    ]
    words = [*TINY, "trainer.precision=bf16", "sampler.max_new_tokens=8"]
    followed = ["agent.sync_reference_every=1", "agent.sync_reference_decay=0.9"]
    taught = [f"agent.teacher={TINY_FOLDER}", "env=mixture", *rewards]
    assert run(monkeypatch, *words, *followed, *taught, "--memory", "8GiB") == 0
    printed = capsys.readouterr().out
    tiny = AutoModelForCausalLM.from_pretrained(TINY_FOLDER)
    count = sum(p.numel() for p in tiny.parameters())
    assert row(printed, "teacher")[1:3] == [mib(2 * count)] * 2
    assert row(printed, "average")[1:3] == [mib(4 * count)] * 2
    here, there = (re.split(r"\s{2,}", x) for x in printed.splitlines() if x.startswith("reward"))
    assert here[1:3] == [mib(4 * scored)] * 2, "the two environments share it"
    assert there[1:3] == ["-", "-"]
    assert there[3].endswith("GiB on cuda:1, not counted here")
    assert run(monkeypatch, *words, "agent=ppo", "--memory", "8GiB") == 0
    assert row(capsys.readouterr().out, "critic")[1:3] == [mib(14 * count)] * 2


def test_where_no_key_is_enough_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    assert run(monkeypatch, *TINY, "--memory", "1MiB") == 1
    assert "No key is enough (" in capsys.readouterr().out


def test_a_run_of_its_own_configuration_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = Path(__file__).parents[2] / "agents" / "grpo_policy" / "tiny" / "config.json"
    (tmp_path / "config.json").write_bytes(tiny.read_bytes())  # no weights, no tokenizer
    words = ("model=hf", f"model.path={tmp_path}", "trainer.device=cpu", "--memory", "8GiB")
    assert run(monkeypatch, *words) == 0
    assert "0.9 M parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("model.size=5b",), "model.size=5b. Allowed: auto, tiny, 0.6b"),
        (("--memory", "24X"), "--memory=24X. Allowed: a number and MiB, MB, GiB, GB: 24GiB."),
        (("--fsdp", "0"), "--fsdp=0. Allowed: 1 or more."),
        (("--prompt-tokens", "0"), "--prompt-tokens=0. Allowed: 1 or more."),
        (("model=hf", "model.path=nobody/none"), "model.path=nobody/none: no such folder"),
        (("--gpus", "1"), "--gpus=1. Allowed: 2 or more."),
        (("--answer-tokens", "0"), "--answer-tokens=0. Allowed: 1 or more."),
        (("--decode-rate", "0"), "--decode-rate=0.0. Allowed: above 0."),
        (("--update-tflops", "-3"), "--update-tflops=-3.0. Allowed: above 0."),
    ],
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"grpo_envs: {said}")


def test_help_and_a_mistake_need_no_torch() -> None:
    code = "import sys; import grpo_envs.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
