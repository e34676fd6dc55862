"""Low-rank adapters: what is trained, what is the reference, what is saved, what is refused."""

import json
import logging
import sys
from copy import deepcopy
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM

from grpo_agent.config import LossConfig
from grpo_envs.config.model import LoraConfig
from grpo_envs.errors import ConfigError
from grpo_envs.training.trainer import Trainer
from grpo_policy.adapters import add_adapters
from grpo_policy.models import TINY, load_policy, restore
from grpo_policy.policy import Policy
from tests.agents.test_agent import agent_of, chosen, gradients, groups, same, size_of, weights
from tests.training import test_trainer


def trainer(out: Path, *overrides: str) -> Trainer:
    """A small run with adapters of rank 4."""
    small = [
        "trainer.eval_problems=0",
        "agent.lr=1e-2",
        "agent.warmup_steps=0",
        "model.lora.rank=4",
        "seed=3",  # whose groups are not all flat
    ]
    return test_trainer.trainer(out, *small, *overrides)


@pytest.fixture
def adapted(random_policy: Policy) -> Policy:
    """Adapters that do something already, all of it in float64."""
    return with_adapters(random_policy)


def with_adapters(policy: Policy) -> Policy:
    add_adapters(policy, LoraConfig(rank=4, alpha=8), torch.float64)
    policy.model.double()
    torch.manual_seed(1)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:  # zeros at the start, so that the model is what it was
            nn.init.normal_(parameter, std=0.1)
    policy.masters.publish()
    return policy


def adapters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if "lora_" in name}


def base(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The other weights, by the names that they have without adapters."""
    others = {name for name in state if "lora_" not in name}
    return {name.replace(".base_layer", ""): state[name] for name in others}


# --- what is trained


def test_at_the_start_the_model_is_what_it_was(random_policy: Policy) -> None:
    ids = torch.arange(9)[None]
    before = random_policy.model(input_ids=ids).logits
    names = base(weights(random_policy)).keys()
    add_adapters(random_policy, LoraConfig(rank=4), torch.float64)
    assert random_policy.has_adapters
    torch.testing.assert_close(random_policy.model(input_ids=ids).logits, before)
    assert base(weights(random_policy)).keys() == names


def test_only_adapters_are_trained_and_the_model_stays_bit_for_bit(adapted: Policy) -> None:
    before = weights(adapted)
    agent = agent_of(adapted, lr=1e-2)
    for _ in range(3):
        metrics, _ = agent.update(groups(adapted))
        assert metrics["optim/skipped"] == 0
    after = weights(adapted)
    trained = {id(p) for p in adapted.trained_parameters()}
    named = dict(adapted.model.named_parameters())
    assert {n for n, p in named.items() if id(p) in trained} == adapters(before).keys()
    assert all(value.equal(after[name]) for name, value in base(before).items() if name in after)
    assert all(base(before)[name].equal(value) for name, value in base(after).items())
    assert not any(value.equal(after[name]) for name, value in adapters(before).items())


def test_the_rank_and_the_scale_are_the_configured_ones(random_policy: Policy) -> None:
    add_adapters(random_policy, LoraConfig(rank=4, alpha=8), torch.float64)
    random_policy.model.double()
    layer = random_policy.model.model.layers[0].mlp.up_proj
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert (down.shape, up.shape) == ((4, 32), (48, 4))
    nn.init.normal_(up)
    random_policy.masters.publish()
    x = torch.randn(3, 32, dtype=torch.float64)
    expected = x @ layer.base_layer.weight.T + 8 / 4 * (x @ down.T @ up.T)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        pytest.param(
            ["all-linear"],
            {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
            id="every linear layer but the head",
        ),
        pytest.param(["q_proj", "v_proj"], {"q_proj", "v_proj"}, id="two names"),
    ],
)
def test_targets_are_layers_by_name(
    random_policy: Policy, targets: list[str], layers: set[str]
) -> None:
    add_adapters(random_policy, LoraConfig(rank=2, targets=targets), torch.float64)
    names = [n for n, p in random_policy.model.named_parameters() if p.requires_grad]
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == layers
    assert len(names) == 2 * 2 * len(layers)  # A and B, in two decoder layers


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param(["nowhere"], id="a name that no layer has"),
        pytest.param(["norm"], id="no linear layer"),
        pytest.param(["q_proj", "nowhere"], id="one of two"),
        pytest.param(["all-linear", "q_proj"], id="all of them, and one more"),
    ],
)
def test_a_wrong_target_is_one_line(random_policy: Policy, targets: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        add_adapters(random_policy, LoraConfig(rank=2, targets=targets), torch.float64)
    said = str(raised.value)
    assert said.startswith(f"model.lora.targets={targets}. Allowed: all-linear, down_proj, ")
    assert "\n" not in said


def test_a_model_that_peft_refuses_is_refused_with_its_reason() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    mamba = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, state_size=2
    )
    policy = Policy(MambaForCausalLM(mamba), tokenizer)
    said = r"=\['all-linear'\]\. Allowed: .* PEFT: Module 'out_proj'"
    with pytest.raises(ConfigError, match=said):
        add_adapters(policy, LoraConfig(rank=2), torch.float32)


def test_no_module_is_left_in_training_mode(random_policy: Policy) -> None:
    """The rule of the design: eval() while sampling and scoring, what PEFT adds included."""
    add_adapters(random_policy, LoraConfig(rank=2), torch.float64)
    assert [name for name, m in random_policy.model.named_modules() if m.training] == []


def test_without_peft_one_line_names_the_extra(
    random_policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError) as raised:
        add_adapters(random_policy, LoraConfig(rank=2), torch.float64)
    assert str(raised.value) == 'model.lora.rank=2 needs PEFT: pip install -e ".[peft]"'


# --- gradients


def test_the_micro_batch_changes_nothing(adapted: Policy) -> None:
    given = groups(adapted)
    whole = gradients(adapted, given, epochs=2, micro_batch_tokens=10_000)
    small = gradients(adapted, given, epochs=2, micro_batch_tokens=1)
    assert whole[0].keys() == adapters(weights(adapted)).keys()
    for one, other in zip(whole, small, strict=True):
        assert size_of(one) > 1e-3
        same(one, other)


def test_gradient_checkpointing_changes_nothing(adapted: Policy) -> None:
    """The embeddings are frozen: without a gradient at its input a layer must still get one."""
    given = groups(adapted)
    plain = gradients(adapted, given)
    adapted.checkpoint_layers()
    same(plain[0], gradients(adapted, given)[0])


# --- the reference: the model without its adapters


def test_the_reference_is_the_untouched_model(random_policy: Policy) -> None:
    untouched = deepcopy(random_policy)
    policy = with_adapters(random_policy)
    agent = agent_of(policy, lr=1e-2)
    assert agent.learner.reference is None, "no copy: that is what adapters save"
    given = groups(policy)
    agent.update(given)
    rows = [(group, i) for group in given for i in range(4)]
    with torch.no_grad():
        refs = torch.cat([chosen(untouched, *row, 1.0) for row in rows])
        lps = torch.cat([chosen(policy, *row, 1.0) for row in rows])
    metrics, _ = agent.update(given)
    by_hand = fmean((torch.exp(refs - lps) - (refs - lps) - 1).tolist())
    assert metrics["loss/kl"] == pytest.approx(by_hand, rel=1e-5)
    assert by_hand > 1e-3
    assert agent.state_dict()["reference"] is None


def test_without_a_penalty_the_adapters_are_never_off(
    adapted: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapted.model, "disable_adapters", None)
    metrics, _ = agent_of(adapted, loss=LossConfig(beta=0.0)).update(groups(adapted))
    assert "loss/kl" not in metrics


def test_adapters_are_on_again_afterwards(adapted: Policy) -> None:
    """Also after an exception, and ready to be trained."""
    ids = torch.arange(9)[None]
    on = adapted.model(input_ids=ids).logits
    with adapted.adapters_off():
        off = adapted.model(input_ids=ids).logits
    assert adapted.model(input_ids=ids).logits.equal(on)
    with pytest.raises(IndexError), adapted.adapters_off():
        adapted.model(input_ids=ids + 1000)
    assert (on - off).abs().max() > 1e-2
    assert adapted.model(input_ids=ids).logits.equal(on)
    trained = {id(p) for p in adapted.trained_parameters()}
    names = {n for n, p in adapted.model.named_parameters() if id(p) in trained}
    assert names == adapters(weights(adapted)).keys()


def test_adapters_are_on_while_scoring_after_the_reference_failed(
    adapted: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory in the reference's pass, say: whoever catches it still has its policy."""
    given, agent = groups(adapted), agent_of(adapted)
    before = chosen(adapted, given[0], 0, 1.0)
    forward = adapted.forward

    def fail(*args: Any, **keywords: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(adapted, "forward", fail)
    with pytest.raises(torch.OutOfMemoryError):
        agent.update(given)
    monkeypatch.setattr(adapted, "forward", forward)
    assert chosen(adapted, given[0], 0, 1.0).equal(before)


# --- runs


def test_a_run_saves_adapters_and_goes_on_from_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(3)  # of the adapters' first weights
    with caplog.at_level(logging.INFO):
        first = trainer(tmp_path / "cut", "trainer.steps=2")
    assert "M of them trained (LoRA)" in caplog.text
    first.run()
    model = first.policy.model
    for name, value in load_policy(str(TINY)).model.state_dict().items():
        if name in base(model.state_dict()):
            assert base(model.state_dict())[name].equal(value), name

    # The checkpoint: adapters only, and anyone can load it.
    last = first.checkpoints.last
    files = {file.name for file in last.iterdir()}
    assert "adapter_model.safetensors" in files
    assert not any(name.startswith("model") for name in files)
    assert (last / "adapter_model.safetensors").stat().st_size < 300_000  # the model: 3 MB
    ids = torch.arange(20)[None]
    loaded = AutoModelForCausalLM.from_pretrained(last)
    there, here = loaded(input_ids=ids).logits, model(input_ids=ids).logits
    torch.testing.assert_close(there, here, rtol=0, atol=1e-4)
    started = load_policy(str(TINY)).model(input_ids=ids).logits
    assert (model(input_ids=ids).logits - started).abs().max() > 1e-3

    # A resume takes adapters and moments over, and ends where a straight run does.
    second = trainer(tmp_path / "cut", "trainer.steps=4", f"resume={tmp_path / 'cut'}")
    assert second.done == 2
    resumed = second.policy.model.state_dict()
    assert resumed.keys() == model.state_dict().keys()
    assert all(value.equal(resumed[name]) for name, value in model.state_dict().items())
    moments = [t.agent.state_dict()["optimizer"]["state"] for t in (first, second)]
    assert len(moments[0]) == len(adapters(resumed))
    assert all(moments[0][i]["exp_avg"].equal(moments[1][i]["exp_avg"]) for i in moments[0])
    second.run()
    torch.manual_seed(3)
    straight = trainer(tmp_path / "straight", "trainer.steps=4")
    straight.run()
    expected = straight.policy.model.state_dict()
    got = second.policy.model.state_dict()
    assert all(value.equal(got[name]) for name, value in expected.items())
    rows = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    kl = [json.loads(row)["loss/kl"] for row in rows]
    assert (len(kl), kl[0], kl[-1] > 0) == (4, 0, True)


@pytest.mark.parametrize(
    ("kept", "targets", "count"),
    [
        pytest.param(["q_proj"], ["q_proj", "v_proj"], 8, id="the checkpoint has fewer"),
        pytest.param(["q_proj", "v_proj"], ["q_proj"], 8, id="the checkpoint has more"),
    ],
)
def test_adapters_that_are_not_those_of_the_policy_are_refused(
    tmp_path: Path, kept: list[str], targets: list[str], count: int
) -> None:
    other, policy = load_policy(str(TINY)), load_policy(str(TINY))
    add_adapters(other, LoraConfig(rank=4, targets=kept), torch.float32)
    other.model.save_pretrained(tmp_path)
    add_adapters(policy, LoraConfig(rank=4, targets=targets), torch.float32)
    with pytest.raises(ConfigError) as raised:
        restore(policy, tmp_path)
    said = str(raised.value)
    assert f"its adapters (LoRA) are not those of the policy: {count} weights have no" in said
    assert "\n" not in said


def test_trained_weights_that_are_not_those_of_the_policy_are_refused(tmp_path: Path) -> None:
    policy = load_policy(str(TINY))
    before = weights(policy)
    fewer = {name: value + 1 for name, value in policy.trained_weights().items()}
    name, value = fewer.popitem()
    for state, count in ((fewer, 1), ({**fewer, f"{name}.other": value}, 2)):
        with pytest.raises(ConfigError, match=rf"are not those of the policy: {count} have no"):
            restore(policy, tmp_path, state)
    assert all(value.equal(before[name]) for name, value in weights(policy).items())


def test_the_seed_of_the_run_decides_the_first_weights_of_the_adapters(tmp_path: Path) -> None:
    """The same seed repeats a run, whatever has drawn random numbers before; another differs."""
    made = []
    for i, seed in enumerate((5, 5, 6)):
        torch.manual_seed(100 + i)
        made.append(adapters(weights(trainer(tmp_path / str(i), f"seed={seed}").policy)))
    assert all(value.equal(made[1][name]) for name, value in made[0].items())
    assert not any(v.equal(made[2][n]) for n, v in made[0].items() if "lora_A" in n)


def test_a_bf16_model_trains_float32_adapters(tmp_path: Path) -> None:
    args = ["trainer.steps=2", 'trainer.device="cpu"', 'trainer.precision="bf16"']
    made = trainer(tmp_path, *args)
    policy = made.policy
    before = weights(policy)
    assert {value.dtype for value in base(before).values()} == {torch.bfloat16}
    trained = {name: value.clone() for name, value in policy.trained_weights().items()}
    assert trained.keys() == adapters(before).keys()
    assert {value.dtype for value in trained.values()} == {torch.float32}
    made.run()
    after = weights(policy)
    assert all(value.equal(base(after)[name]) for name, value in base(before).items())
    now = policy.trained_weights()
    assert not any(v.equal(now[n]) for n, v in trained.items() if "lora_B" in n)
    assert all(after[name].equal(value.bfloat16()) for name, value in now.items())
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert all(abs(value) < 1e9 for value in row.values()), row
        assert (row["optim/skipped"], row["policy/sample_gap"] < 0.1) == (0, True)
    again = trainer(tmp_path, *args, f"resume={tmp_path}").policy
    for name, value in weights(again).items():
        assert value.dtype == after[name].dtype
        assert value.equal(after[name])
    for name, value in again.trained_weights().items():
        assert value.equal(now[name]), "to the last bit, not those of bf16"
