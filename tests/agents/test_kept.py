"""What a folder holds beside the text model that is trained is in what is saved."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from grpo_envs.config.model import LoraConfig
from grpo_envs.errors import ConfigError
from grpo_envs.runs.checkpoint import Checkpoints
from grpo_policy.adapters import add_adapters
from grpo_policy.exporting import export, merge
from grpo_policy.models import TINY, load_policy, restore
from grpo_policy.policy import Policy
from tests.agents.test_selftest import LINEAR, model_of, saved
from tests.benchmarks.architectures import multimodal

PROCESSOR = '{"image_processor_type": "SomeImageProcessor"}'


def whole(kind: str, folder: Path, **how: Any) -> tuple[type[PreTrainedModel], str]:
    """Save a model that also sees, in bfloat16, with the file of its processor."""
    model = multimodal(kind).bfloat16()
    model.save_pretrained(folder, **how)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(PROCESSOR)
    return type(model), str(folder)


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


@torch.no_grad()
def logits(policy: Policy) -> Tensor:
    found: Tensor = policy.model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits
    return found


@torch.no_grad()
def nudge(policy: Policy) -> None:
    for weight in policy.trained_parameters():
        weight.add_(0.01)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        pytest.param("qwen3_5", {}, id="the text model is loaded alone"),
        pytest.param("qwen3_5", {"max_shard_size": "20KB"}, id="from several files"),
        pytest.param("gemma3", {}, id="the whole model is loaded"),
        pytest.param("mistral3", {}, id="its text model has no class of its own"),
    ],
)
def test_a_checkpoint_is_the_whole_model(kind: str, how: dict[str, Any], tmp_path: Path) -> None:
    given = tmp_path / "given"
    model_class, path = whole(kind, given, **how)
    policy = load_policy(path)
    nudge(policy)
    after = Checkpoints(tmp_path / "run").save(1, policy, {}, {})

    old, new = weights(given), weights(after)
    assert old.keys() == new.keys()
    seeing = {name for name in old if "vis" in name or "projector" in name}
    assert seeing
    for name in old:
        same = old[name].dtype == new[name].dtype and torch.equal(old[name], new[name])
        assert same == (name in seeing), name
    assert (after / "preprocessor_config.json").read_text() == PROCESSOR
    assert json.loads((after / "config.json").read_text())["dtype"] == "float32"
    load: Any = model_class.from_pretrained  # the hints know no output_loading_info
    loaded, about = load(after, output_loading_info=True)
    assert not any(about.values())
    assert loaded.dtype == torch.float32
    assert type(loaded.config) is type(multimodal(kind).config)
    assert torch.equal(logits(load_policy(str(after))), logits(policy))

    again = load_policy(path)
    restore(again, after)
    assert torch.equal(logits(again), logits(policy))
    second = Checkpoints(tmp_path / "again").save(1, load_policy(str(after)), {}, {})
    assert all(torch.equal(new[name], value) for name, value in weights(second).items())


def test_what_does_not_see_text_is_not_trained(tmp_path: Path) -> None:
    policy = load_policy(whole("gemma3", tmp_path)[1])
    trained = {id(weight) for weight in policy.trained_parameters()}
    for name, weight in policy.model.named_parameters():
        assert (id(weight) in trained) == ("vision" not in name and "projector" not in name), name


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("qwen3_5", {"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj", "q_proj"}),
        ("gemma3", {"q_proj", "o_proj", "down_proj"}),
    ],
)
@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj"]], ids=str)
def test_adapters_are_those_of_the_text_model(
    kind: str, layers: set[str], targets: list[str], tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    policy = load_policy(whole(kind, tmp_path / "given")[1])
    add_adapters(policy, LoraConfig(rank=2, targets=targets), torch.float32)
    names = [name for name, _ in policy.model.named_parameters() if "lora_A" in name]
    assert not [name for name in names if "vision" in name]
    found = {name.split(".lora_A")[0].rpartition(".")[2] for name in names}
    assert found >= layers if targets == ["all-linear"] else found == {"q_proj"}
    after = Checkpoints(tmp_path / "run").save(1, policy, {}, {})
    assert not list(after.glob("model*.safetensors"))  # the adapters alone


def test_a_model_that_loads_as_a_whole_alone_is_exported_and_so_are_its_adapters(
    tmp_path: Path,
) -> None:
    """Transformers has no causal language model of LLaVA's configuration."""
    pytest.importorskip("peft")
    path = whole("llava", tmp_path / "given")[1]
    export(load_policy(path), tmp_path / "whole", "bf16")
    assert weights(tmp_path / "whole").keys() == weights(tmp_path / "given").keys()
    policy = load_policy(path)
    add_adapters(policy, LoraConfig(rank=2), torch.float32)
    nudge(policy)
    policy.save(tmp_path / "adapters")
    again = load_policy(str(tmp_path / "adapters"), adapters=True)
    torch.testing.assert_close(logits(again), logits(policy), rtol=0, atol=1e-5)
    export(again, tmp_path / "alone", "fp32")
    export(merge(load_policy(path), tmp_path / "adapters"), tmp_path / "merged", "fp32")
    merged = load_policy(str(tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), logits(policy), rtol=0, atol=1e-5)


def test_weights_that_transformers_does_not_load_are_kept(tmp_path: Path) -> None:
    """Those that predict several tokens at once: a server uses them."""
    given = tmp_path / "given"
    path = saved(model_of("qwen3_5_text", **LINEAR), given)
    ahead = torch.randn(3, 4).bfloat16()
    save_file(
        {**load_file(given / "model.safetensors"), "mtp.fc.weight": ahead},
        given / "model.safetensors",
        metadata={"format": "pt"},
    )
    policy = load_policy(path)
    nudge(policy)
    after = Checkpoints(tmp_path / "run").save(1, policy, {}, {})
    assert torch.equal(weights(after)["mtp.fc.weight"], ahead)
    assert torch.equal(logits(load_policy(str(after))), logits(policy))


def test_an_ordinary_folder_is_saved_as_ever(tmp_path: Path) -> None:
    policy = load_policy(saved(model_of("llama"), tmp_path / "given"))
    policy.model.save_pretrained(tmp_path / "after")
    names = {file.name for file in (tmp_path / "after").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}


def test_names_of_an_older_layout_are_not_kept_beside_the_new_ones(tmp_path: Path) -> None:
    """As those of the first GPT-2: the old weights would stand beside the trained ones."""
    given = tmp_path / "given"
    sizes: dict[str, Any] = {
        "vocab_size": 545,
        "n_embd": 32,
        "n_layer": 1,
        "n_head": 2,
        "eos_token_id": 540,
    }
    path = saved(GPT2LMHeadModel(GPT2Config(**sizes)), given)
    file = given / "model.safetensors"
    old = {name.removeprefix("transformer."): value for name, value in load_file(file).items()}
    save_file(old, file, metadata={"format": "pt"})
    policy = load_policy(path)
    nudge(policy)
    after = Checkpoints(tmp_path / "run").save(1, policy, {}, {})
    assert not weights(after).keys() & old.keys()
    assert torch.equal(logits(load_policy(str(after))), logits(policy))


def test_what_cannot_be_kept_is_refused_in_a_line(tmp_path: Path) -> None:
    path = whole("llama4", tmp_path)[1]
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    assert str(caught.value) == (
        f"model.path={path}: Llama4ForCausalLM would be saved under other names than its folder "
        "has (lm_head.weight), so the rest of the folder (llama4) would be lost. Give the folder "
        "of a text model, or of another model."
    )
