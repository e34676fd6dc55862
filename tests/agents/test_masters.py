"""Weights that compute in half the bytes, and the masters that the optimiser changes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from grpo_envs.errors import ConfigError
from grpo_envs.training import precision
from grpo_policy.batch import Batch, collate
from grpo_policy.learner import Learner, LearnerSettings, RowLoss, Scored
from grpo_policy.models import TINY, restore
from grpo_policy.policy import Policy
from tests.agents.test_agent import made

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
LENGTHS, REWARDS = [3, 9, 5, 2, 7, 4], [1.0, -0.5, 0.25, 0.0, -1.0, 0.5]


def batch_of(policy: Policy) -> Batch:
    return collate([made(LENGTHS, REWARDS)], policy.pad_id, policy.device)


def reinforce(scale: float = 1.0) -> RowLoss:
    """-r log pi, a mean over the completions, times a scale."""

    def loss(scored: Scored) -> tuple[Tensor, dict[str, Tensor]]:
        rewards_B = torch.tensor(REWARDS, dtype=scored.logps_BT.dtype)[scored.rows_B]
        return -(rewards_B[:, None] * scored.logps_BT).sum() / len(REWARDS) * scale, {}

    return loss


def learner_of(policy: Policy, *, lr: float = 1e-3, tokens: int = 1) -> Learner:
    settings = LearnerSettings(lr=lr, max_grad_norm=1e9, micro_batch_tokens=tokens)
    return Learner(policy, settings, Accelerator(cpu=True))


def caught(learner: Learner) -> list[Tensor]:
    """The gradients of the last update, as the optimiser is given them."""
    found: list[Tensor] = []

    def keep(*_: object) -> None:
        given = [p.grad for p in learner.policy.trained_parameters()]
        found[:] = [gradient.clone() for gradient in given if gradient is not None]

    learner.optimizer.register_step_pre_hook(keep)
    return found


@HALVES
def test_sums_of_gradients_are_in_float32(tiny: Policy, dtype: torch.dtype) -> None:
    """Of six micro-batches: near those of float32, and of more bits than `dtype` has."""
    exact = learner_of(tiny, lr=0.0)
    expected = caught(exact)
    exact.learn([(batch_of(tiny), reinforce())])
    tiny.compute_in(dtype)
    learner = learner_of(tiny)
    got = caught(learner)
    metrics = learner.learn([(batch_of(tiny), reinforce())])
    assert metrics["optim/skipped"] == 0
    assert len(got) == len(expected) > 10
    for value, wanted in zip(got, expected, strict=True):
        assert value.dtype == torch.float32
        assert (value - wanted).norm() < 0.2 * wanted.norm()
    assert any(not value.equal(value.to(dtype).float()) for value in got)
    assert all(p.grad is None for p in tiny.model.parameters())


@HALVES
def test_the_weights_that_compute_follow_their_masters_in_place(
    tiny: Policy, dtype: torch.dtype
) -> None:
    before = {name: p.detach().clone() for name, p in tiny.model.named_parameters()}
    tiny.compute_in(dtype)
    places = [p.data_ptr() for p in tiny.model.parameters()]
    assert all(tiny.trained_weights()[name].equal(value) for name, value in before.items())
    learner = learner_of(tiny, lr=1e-6)
    for _ in range(2):
        learner.learn([(batch_of(tiny), reinforce())])
    assert [p.data_ptr() for p in tiny.model.parameters()] == places
    now = tiny.trained_weights()
    moved = torch.cat([(now[name] != value).flatten() for name, value in before.items()])
    assert moved.float().mean() > 0.8, "a step of 1e-6 is too small for the dtype alone"
    for name, p in tiny.model.named_parameters():
        assert p.dtype == dtype
        assert p.equal(now[name].to(dtype))


@HALVES
def test_a_checkpoint_holds_the_masters_to_the_bit_and_is_taken_over(
    tiny: Policy, dtype: torch.dtype, tmp_path: Path
) -> None:
    tiny.compute_in(dtype)
    tiny.save(tmp_path / "untouched")
    start, kept = (load_file(f / "model.safetensors") for f in (TINY, tmp_path / "untouched"))
    assert all(kept[name].equal(value) for name, value in start.items())
    learner_of(tiny).learn([(batch_of(tiny), reinforce())])
    trained = {name: value.clone() for name, value in tiny.trained_weights().items()}
    tiny.save(tmp_path / "trained")
    learner_of(tiny).learn([(batch_of(tiny), reinforce())])
    restore(tiny, tmp_path / "trained")
    for name, p in tiny.model.named_parameters():
        assert tiny.trained_weights()[name].equal(trained[name])
        assert p.equal(trained[name].to(dtype))


def test_a_reference_is_a_copy_in_the_dtype_that_computes(tiny: Policy) -> None:
    tiny.compute_in(torch.bfloat16)
    copied = tiny.frozen_copy()
    assert copied.masters.values == {}
    assert {p.dtype for p in copied.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in copied.parameters())
    assert tiny.masters.values.keys() == tiny.masters.computing().keys()
    own = {p.data_ptr() for p in tiny.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in copied.parameters())


def test_fp16_tries_an_update_again_with_less_until_its_gradients_are_numbers(tiny: Policy) -> None:
    """The loss is multiplied by 2^16 at first, which makes these gradients infinite."""
    tiny.compute_in(torch.float16)
    learner = learner_of(tiny)
    metrics = learner.learn([(batch_of(tiny), reinforce(scale=100.0))])
    assert (metrics["optim/skipped"], metrics["optim/updates"]) == (0, 1)
    state = learner.state_dict()["scaler"]
    assert state["scale"] < 2**16
    again = learner_of(tiny)
    again.load_state_dict(learner.state_dict())
    assert again.state_dict()["scaler"] == state


@pytest.mark.parametrize(
    ("dtype", "kept"), [(torch.bfloat16, {"norm"}), (torch.float16, {"norm", "q_norm"})]
)
def test_what_transformers_keeps_in_float32_stays_so(
    tiny: Policy, dtype: torch.dtype, kept: set[str]
) -> None:
    tiny.model._keep_in_fp32_modules_strict = {"norm"}
    tiny.model._keep_in_fp32_modules = {"q_norm"}
    tiny.compute_in(dtype)
    for name, p in tiny.model.named_parameters():
        assert (p.dtype == torch.float32) == (not kept.isdisjoint(name.split("."))), name


def test_positions_stay_in_float32(tiny: Policy) -> None:
    """Frequencies in bf16 would put the tokens of long texts to wrong places."""
    tiny.compute_in(torch.bfloat16)
    buffers = {name: b.dtype for name, b in tiny.model.named_buffers() if b.is_floating_point()}
    assert any("inv_freq" in name for name in buffers)
    assert set(buffers.values()) == {torch.float32}


def _raise(*_: object, **__: object) -> None:
    raise RuntimeError("mat1 and mat2 must have the same dtype\nand more lines")


def _nan(module: object, args: object, out: Tensor) -> Tensor:
    return out * float("nan")


@pytest.mark.parametrize(
    ("break_it", "cause"),
    [
        (lambda p: p.model.model.register_forward_pre_hook(_raise), "must have the same dtype"),
        (lambda p: p.model.lm_head.register_forward_hook(_nan), "no finite numbers"),
    ],
)
def test_a_model_that_cannot_compute_in_a_precision_is_refused_in_one_line(
    tiny: Policy, break_it: Callable[[Policy], object], cause: str
) -> None:
    break_it(tiny)
    with pytest.raises(ConfigError, match=cause) as raised:
        precision.compute_in(tiny, torch.float16)
    said = str(raised.value)
    assert said.startswith("trainer.precision=fp16: Qwen3ForCausalLM cannot compute in it (")
    assert said.endswith("Allowed: fp32, bf16.")
    assert "\n" not in said
