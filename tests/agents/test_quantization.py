"""Four bits beneath adapters (QLoRA), and moments in eight bits: bitsandbytes on the CPU."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from grpo_agent.config import GrpoConfig
from grpo_envs.config.composition import compose_run
from grpo_envs.config.model import ModelConfig
from grpo_envs.errors import ConfigError
from grpo_envs.training.trainer import Trainer
from grpo_policy.models import TINY, load_policy
from tests.training import test_trainer

# PEFT asks Transformers by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
SMALL = ["trainer.eval_problems=0", "agent.lr=1e-2", "agent.warmup_steps=0", "seed=3"]
QLORA = ["model.lora.rank=4", 'model.quantization="4bit"', 'trainer.device="cpu"']


def trainer(out: Path, *overrides: str) -> Trainer:
    return test_trainer.trainer(out, *SMALL, *overrides)


def sizes(state: Mapping[str, Any]) -> set[int]:
    """Bytes of a number of the moments that have many."""
    tensors = [value for value in tree_leaves(state) if isinstance(value, Tensor)]
    return {value.element_size() for value in tensors if value.numel() >= 4096}


def losses(out: Path) -> list[float]:
    rows = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(row)["loss/total"] for row in rows]


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def test_adapters_are_trained_on_four_bits_and_a_run_goes_on(
    tmp_path: Path, precision: str
) -> None:
    args = [*QLORA, f'trainer.precision="{precision}"', "trainer.save_every=1"]
    straight = trainer(tmp_path / "straight", *args, "trainer.steps=3")
    layer = straight.policy.model.model.layers[0].mlp.up_proj
    assert type(layer.base_layer).__name__ == "Linear4bit"
    packed = layer.base_layer.weight
    assert (packed.dtype, packed.numel() * 2) == (torch.uint8, 128 * layer.base_layer.out_features)
    assert straight.policy.size > 850_000, "weights are counted, not bytes"
    before = packed.clone()
    start = {name: value.clone() for name, value in straight.policy.trained_weights().items()}
    straight.run()
    assert packed.equal(before)
    moved = straight.policy.trained_weights()
    assert not any(v.equal(moved[n]) for n, v in start.items() if "lora_B" in n)
    trainer(tmp_path / "cut", *args, "trainer.steps=2").run()
    again = trainer(tmp_path / "cut", *args, "trainer.steps=3", f"resume={tmp_path / 'cut'}")
    again.run()
    assert losses(tmp_path / "cut") == losses(tmp_path / "straight")
    for name, value in again.policy.trained_weights().items():
        assert value.equal(moved[name])


@pytest.mark.parametrize("optimizer", [pytest.param("adamw", marks=pytest.mark.slow), "adamw_8bit"])
def test_a_run_goes_on_with_the_moments_that_it_had(tmp_path: Path, optimizer: str) -> None:
    args = [f'agent.optimizer="{optimizer}"', "agent.lr=1e-3"]
    straight = trainer(tmp_path / "straight", *args, "trainer.steps=4")
    straight.run()
    found = sizes(straight.agent.state_dict()["optimizer"]["state"])
    assert found == ({1} if optimizer == "adamw_8bit" else {4})
    trainer(tmp_path / "cut", *args, "trainer.steps=2").run()
    again = trainer(tmp_path / "cut", *args, "trainer.steps=4", f"resume={tmp_path / 'cut'}")
    again.run()
    assert losses(tmp_path / "cut") == losses(tmp_path / "straight")
    for name, value in again.policy.trained_weights().items():
        assert value.equal(straight.policy.trained_weights()[name])


def test_eight_bits_train_nearly_as_float32_does(tmp_path: Path) -> None:
    moved = {}
    for optimizer in ("adamw", "adamw_8bit"):
        args = [f'agent.optimizer="{optimizer}"', "agent.lr=1e-3", "trainer.steps=2"]
        made = trainer(tmp_path / optimizer, *args)
        before = {name: value.clone() for name, value in made.policy.trained_weights().items()}
        made.run()
        now = made.policy.trained_weights()
        moved[optimizer] = torch.cat([(now[n] - v).flatten() for n, v in before.items()])
    one, other = moved.values()
    assert torch.cosine_similarity(one, other, dim=0) > 0.9


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            ["model.quantization=8bit"],
            "model.quantization=8bit. Allowed: 4bit. Did you mean '4bit'?",
        ),
        (["agent.optimizer=adam"], "agent.optimizer=adam. Allowed: adamw, adamw_8bit."),
    ],
)
def test_a_name_that_is_not_known_is_one_line(keys: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compose_run(keys)
    assert str(raised.value).startswith(line)


def test_weights_in_four_bits_are_not_trained_themselves(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model\.quantization=4bit with model\.lora\.rank=0: "):
        trainer(tmp_path, 'model.quantization="4bit"')


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_envs.errors.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs bitsandbytes: pip install -e \"\.\[quant\]\""):
        load_policy(str(TINY), ModelConfig(quantization="4bit"))


def test_a_gguf_file_is_not_quantised_again(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"^model\.quantization=4bit of .*a\.gguf\. Allowed: nul"):
        load_policy(str(file), ModelConfig(quantization="4bit"))


def test_shards_have_no_moments_in_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    run = compose_run([])
    with pytest.raises(ConfigError, match=r"^agent\.optimizer=adamw_8bit in shards: .* adamw\.$"):
        GrpoConfig(optimizer="adamw_8bit").check(run)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    GrpoConfig(optimizer="adamw_8bit").check(run)
    run.trainer.shard = "full"
    with pytest.raises(ConfigError, match=r"^agent\.optimizer=adamw_8bit in shards: "):
        GrpoConfig(optimizer="adamw_8bit").check(run)


def test_a_model_beneath_adapters_is_loaded_in_what_it_computes_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        made = trainer(tmp_path, "model.lora.rank=4", 'trainer.precision="bf16"')
    assert {p.dtype for p in made.policy.model.parameters()} == {torch.bfloat16}
    assert {v.dtype for v in made.policy.trained_weights().values()} == {torch.float32}
