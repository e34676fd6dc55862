"""What a run leaves is a model for others: plain Transformers and PEFT load what was trained."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo_envs.config.model import LoraConfig
from grpo_envs.errors import CheckpointError, ConfigError
from grpo_envs.export import export
from grpo_envs.runs.folder import RunFolder
from grpo_envs.training.trainer import Trainer
from grpo_policy.adapters import add_adapters
from grpo_policy.exporting import merge
from grpo_policy.models import SMOLLM2, TINY, load_policy, resolve
from grpo_policy.policy import Policy
from grpo_policy.saving import base_of, name_base
from tests.agents.test_agent import weights
from tests.training import test_trainer

# PEFT asks Transformers by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
IDS = torch.arange(3, 40)[None]
LORA = ["model.lora.rank=4", "agent.lr=1e-2"]


def trainer(out: Path, *overrides: str) -> Trainer:
    """A small run of two steps whose groups are not all flat."""
    given = ["trainer.steps=2", "trainer.eval_problems=0", "agent.warmup_steps=0", "seed=3"]
    made = test_trainer.trainer(out, *given, *overrides)
    RunFolder(out).claim({"env.name": "math", "seed": 3}, ["env=math", "seed=3"])
    return made


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    answer: Tensor = model.eval()(input_ids=IDS).logits.float()
    return answer


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Policy]:
    """The folder of a run with adapters, and what it trained."""
    out = tmp_path_factory.mktemp("lora") / "run"
    made = trainer(out, *LORA)
    made.run()
    untouched = logits(load_policy(str(TINY)).model)
    assert (logits(made.policy.model) - untouched).abs().max() > 1e-2
    return out, made.policy


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Policy]:
    """The same of a run that trains all weights."""
    out = tmp_path_factory.mktemp("whole") / "run"
    made = trainer(out, "agent.lr=1e-3")
    made.run()
    return out, made.policy


def test_a_saved_model_ends_where_the_trained_one_did(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    config = folder / "generation_config.json"
    config.write_text('{"eos_token_id": 538}')
    policy = load_policy(str(folder))
    assert set(policy.eos_ids) > {538}  # the tokenizer's own, too
    policy.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / config.name).read_text())
    assert tuple(saved["eos_token_id"]) == policy.eos_ids


# Adapters


def test_plain_peft_and_transformers_load_the_adapters_of_a_run(lora: tuple[Path, Policy]) -> None:
    out, policy = lora
    last = out / "checkpoints" / "last"
    config = PeftConfig.from_pretrained(str(last))
    assert (config.task_type, config.base_model_name_or_path) == ("CAUSAL_LM", str(TINY))
    for kind in (AutoPeftModelForCausalLM, AutoModelForCausalLM):
        loaded = kind.from_pretrained(last)
        torch.testing.assert_close(logits(loaded), logits(policy.model), rtol=0, atol=1e-4)
    assert AutoTokenizer.from_pretrained(last).eos_token_id in policy.eos_ids
    assert base_of(last) == str(TINY)
    assert base_of(TINY) is None
    assert not (out / "base").exists()


def test_a_relative_folder_is_named_so_that_it_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TINY, tmp_path / "models" / "mine")
    (tmp_path / "link").symlink_to("models/mine")
    monkeypatch.chdir(tmp_path)
    policy = load_policy("link")
    add_adapters(policy, LoraConfig(rank=2), torch.float32)
    policy.save(tmp_path / "adapters")
    monkeypatch.chdir("/")
    config = PeftConfig.from_pretrained(str(tmp_path / "adapters"))
    assert config.base_model_name_or_path == str(tmp_path / "models" / "mine")


def test_a_model_without_a_folder_is_written_once_for_its_adapters_to_name(
    random_policy: Policy, tmp_path: Path
) -> None:
    """One of a GGUF file: PEFT can name no file."""
    policy = with_float32(random_policy)
    written = tmp_path / "run" / "base"
    written.parent.mkdir()
    add_adapters(policy, LoraConfig(rank=2), torch.float32, base=written)
    nudge(policy)
    policy.save(tmp_path / "adapters")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapters")
    torch.testing.assert_close(logits(loaded), logits(policy.model), rtol=0, atol=1e-4)
    stamp = (written / "model.safetensors").stat().st_mtime_ns
    name_base(policy, written)  # a resume
    assert (written / "model.safetensors").stat().st_mtime_ns == stamp
    assert [path.name for path in written.parent.iterdir()] == ["base"]

    again = load_policy(str(tmp_path / "adapters"), adapters=True)
    torch.testing.assert_close(logits(again.model), logits(policy.model), rtol=0, atol=1e-4)
    shutil.rmtree(written)
    with pytest.raises(ConfigError) as raised:
        load_policy(str(tmp_path / "adapters"), adapters=True)
    assert f"belong to the model {written}, which does not exist" in str(raised.value)


def test_a_base_that_cannot_be_written_is_one_line(random_policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    policy = with_float32(random_policy)
    with pytest.raises(CheckpointError, match=r"base cannot be written: ") as raised:
        add_adapters(policy, LoraConfig(rank=2), torch.float32, base=tmp_path / "file" / "base")
    assert "\n" not in str(raised.value)


def test_without_peft_adapters_are_not_taken_for_a_model(
    lora: tuple[Path, Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo_envs.errors.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs peft: pip install -e "):
        load_policy(str(lora[0] / "checkpoints" / "last"), adapters=True)


def with_float32(policy: Policy) -> Policy:
    policy.model.float()
    return policy


def nudge(policy: Policy) -> None:
    torch.manual_seed(1)
    for parameter in policy.trained_parameters():
        torch.nn.init.normal_(parameter, std=0.1)


# Checkpoints in another dtype, and without the trainer's file


def test_a_resume_is_exact_whatever_the_dtype_of_the_checkpoints(tmp_path: Path) -> None:
    for kind, more in (("whole", ["agent.lr=1e-3"]), ("lora", LORA)):
        halves = [*more, 'trainer.save_dtype="bf16"']
        trainer(tmp_path / kind, *halves, "trainer.steps=1").run()
        again = trainer(tmp_path / kind, *halves, f"resume={tmp_path / kind}")
        assert again.done == 1
        again.run()
        straight = trainer(tmp_path / f"{kind} straight", *more)
        straight.run()
        expected = weights(straight.policy)
        got = weights(again.policy)
        assert got.keys() == expected.keys()
        assert all(value.equal(got[name]) for name, value in expected.items()), kind
        assert {v.dtype for v in again.policy.trained_weights().values()} == {torch.float32}
        last = tmp_path / kind / "checkpoints" / "last"
        loaded = AutoModelForCausalLM.from_pretrained(last, dtype="auto").state_dict()
        saved = [v for name, v in loaded.items() if ("lora_" in name) is (kind == "lora")]
        assert {value.dtype for value in saved if value.is_floating_point()} <= {
            torch.bfloat16,
            *((torch.float32,) if kind == "lora" else ()),  # PEFT casts adapters up
        }
        with pytest.raises(ConfigError, match=r"^--dtype fp32: .* are bf16 .* Allowed: bf16\.$"):
            export(tmp_path / kind, tmp_path / "out", "fp32", merge=True)
        (file,) = last.glob("*model.safetensors")
        (full,) = (tmp_path / f"{kind} straight" / "checkpoints" / "last").glob("*.safetensors")
        assert file.stat().st_size < 0.6 * full.stat().st_size


def test_from_a_checkpoint_without_optimizer_no_run_goes_on(tmp_path: Path) -> None:
    made = trainer(tmp_path, "trainer.steps=1", "trainer.save_optimizer=false")
    made.run()
    last = tmp_path / "checkpoints" / "last"
    assert not (last / "trainer.pt").exists()
    loaded = AutoModelForCausalLM.from_pretrained(last)
    torch.testing.assert_close(logits(loaded), logits(made.policy.model), rtol=0, atol=1e-4)
    with pytest.raises(ConfigError) as raised:
        trainer(tmp_path, "trainer.steps=2", f"resume={tmp_path}")
    assert "its checkpoints have no optimizer (trainer.save_optimizer=false)" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_neither_key_makes_it_another_run() -> None:
    plain = test_trainer.small()
    assert not {key for key in plain.identity() if "save_" in key}


def test_what_fp16_cannot_hold_is_refused(random_policy: Policy, tmp_path: Path) -> None:
    policy = with_float32(random_policy)
    policy.model.model.norm.weight.data[0] = 70_000.0
    policy.save(tmp_path / "bf16", "bf16")
    with pytest.raises(ConfigError, match=r"^model\.norm\.weight has values too large for fp16"):
        policy.save(tmp_path / "fp16", "fp16")
    assert policy.model.dtype is torch.float32


def test_a_generation_config_that_transformers_would_not_write_is_saved_as_it_came(
    random_policy: Policy, tmp_path: Path
) -> None:
    """A temperature beside greedy decoding, as Llama 2 had it."""
    config = random_policy.model.generation_config
    config.temperature, config.do_sample = 0.9, False
    random_policy.save(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert (saved["temperature"], saved["do_sample"]) == (0.9, False)
    assert saved["eos_token_id"] == config.eos_token_id
    assert random_policy.model.generation_config is config


# Export


@pytest.mark.parametrize("kind", ["lora", "whole"])
def test_an_exported_model_is_the_trained_one(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run, policy = request.getfixturevalue(kind)
    export(run, tmp_path / "fp32", "fp32", merge=True)
    exact = AutoModelForCausalLM.from_pretrained(tmp_path / "fp32", dtype="auto")
    assert exact.dtype is torch.float32
    torch.testing.assert_close(logits(exact), logits(policy.model), rtol=0, atol=1e-3)
    assert not hasattr(exact, "peft_config")
    export(run, tmp_path / "bf16", "bf16", merge=True)
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "bf16", dtype="auto")
    assert half.dtype is torch.bfloat16
    names = {path.name for path in (tmp_path / "bf16").iterdir()}
    assert len({path.stat().st_mode for path in (tmp_path / "bf16").iterdir()}) == 1  # for others
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "README.md"}
    assert names >= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert "adapter_config.json" not in names
    ends = half.generation_config.eos_token_id
    assert tuple(ends if isinstance(ends, list) else [ends]) == policy.eos_ids
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bf16")
    assert tokenizer.chat_template == policy.tokenizer.chat_template
    card = (tmp_path / "bf16" / "README.md").read_text()
    assert "python -m grpo_envs.run env=math seed=3" in card
    assert 'library_name: "transformers"' in card


def test_adapters_are_exported_alone_without_merge(
    lora: tuple[Path, Policy], tmp_path: Path
) -> None:
    run, policy = lora
    export(run / "checkpoints" / "step_000002", tmp_path / "out", "fp32")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(loaded), logits(policy.model), rtol=0, atol=1e-4)
    assert 'library_name: "peft"' in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers:UserWarning")
@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True.:UserWarning")
def test_what_cannot_be_merged_exactly_is_refused(random_policy: Policy, tmp_path: Path) -> None:
    """Adapters of an embedding that is the head, too: merged they would change both."""
    policy = with_float32(random_policy)
    policy.save(tmp_path / "base")
    policy = load_policy(str(tmp_path / "base"))
    add_adapters(policy, LoraConfig(rank=2, targets=["embed_tokens"]), torch.float32)
    nudge(policy)
    policy.save(tmp_path / "adapters")
    with pytest.raises(ConfigError, match=r"adapters on tied weights: not the trained model"):
        merge(load_policy(str(tmp_path / "base")), tmp_path / "adapters")


def test_a_wrong_export_is_one_line_and_writes_nothing(
    whole: tuple[Path, Policy], tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    for run, out, said in (
        (whole[0], tmp_path / "full", "full: not empty. Allowed: a new or an empty folder."),
        (TINY, tmp_path / "new", "tiny: no run, and no checkpoint of one."),
        (tmp_path / "nowhere", tmp_path / "new", "nowhere: no run, and no checkpoint of one."),
    ):
        with pytest.raises(ConfigError) as raised:
            export(run, out, "fp32")
        assert str(raised.value).endswith(said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


PLAIN = """
import sys, torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer
adapters, merged, wanted = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(merged)
ids = tokenizer("What is 12+34? The answer is 46.", return_tensors="pt").input_ids
wanted = torch.load(wanted)
for kind, folder, most in (
    (AutoPeftModelForCausalLM, adapters, 1e-3),
    (AutoModelForCausalLM, adapters, 1e-3),
    (AutoModelForCausalLM, merged, 0.1 * float(wanted.std())),  # bf16
):
    model = kind.from_pretrained(folder, dtype="auto").eval()
    with torch.no_grad():
        off = (model(input_ids=ids).logits.float() - wanted).abs().mean()
    assert off < most, (kind, folder, off)
    print(model.dtype)
chat = [{"role": "user", "content": "What is 3+4?"}]
text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
given = tokenizer(text, return_tensors="pt")
answer = model.generate(**given, max_new_tokens=8, do_sample=False)[0]
assert given["input_ids"].shape[1] < len(answer)
assert not [name for name in sys.modules if name.startswith("grpo")]
"""


def in_plain_code(run: Path, policy: Policy, folder: Path) -> list[str]:
    """Load what a LoRA run left, in a process that knows nothing of ours."""
    export(run, folder / "merged", "bf16", merge=True)
    text = policy.tokenizer("What is 12+34? The answer is 46.", return_tensors="pt")
    with torch.no_grad():
        torch.save(policy.model(input_ids=text.input_ids).logits, folder / "wanted.pt")
    args = [run / "checkpoints" / "last", folder / "merged", folder / "wanted.pt"]
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, *map(str, args)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_plain_code_in_a_process_of_its_own(lora: tuple[Path, Policy], tmp_path: Path) -> None:
    printed = in_plain_code(*lora, tmp_path)
    assert printed[:3] == ["torch.float32", "torch.float32", "torch.bfloat16"]


@pytest.mark.slow
def test_a_lora_run_of_smollm2_is_used_from_plain_code(tmp_path: Path) -> None:
    """SmolLM2 comes as a GGUF file, which is written as a folder beside the run's checkpoints."""
    pytest.importorskip("gguf")
    from grpo_envs.config.model import ModelConfig

    path = resolve(ModelConfig(name="smollm2"), torch.device("cpu")).path
    assert path.endswith(SMOLLM2)
    out = tmp_path / "run"
    made = trainer(out, *LORA, f"model.path={json.dumps(path)}", "trainer.steps=1", "agent.lr=1e-4")
    made.run()
    config = PeftConfig.from_pretrained(str(out / "checkpoints" / "last"))
    assert config.base_model_name_or_path == str(out / "base")
    printed = in_plain_code(out, made.policy, tmp_path)
    assert printed[:3] == ["torch.float32", "torch.float32", "torch.bfloat16"]
