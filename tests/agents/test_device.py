"""What a GPU would find: tensors on two devices, and bf16. On a CPU, so that every machine looks.

No fake CUDA tensors (torch's own need a CUDA build to index, and have no values): here the update
and the sampler really run, and `cpu:0` plays the accelerator beside the host's `cpu`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter

import grpo_envs
from grpo_agent.advantages import Scores, advantages, per_token
from grpo_agent.agent import GrpoAgent
from grpo_agent.config import GrpoConfig, LossConfig, OverlongConfig
from grpo_agent.losses import LossInputs, StepSize, policy_loss, token_weights
from grpo_agent.mechanisms import ADVANTAGE, OBJECTIVE, resolve
from grpo_agent.shaping import kl_penalty, overlong_penalty
from grpo_envs.config.composition import compose_run
from grpo_envs.env.vector import GroupVectorEnv
from grpo_envs.runtime.timing import Timer
from grpo_envs.training.build import build
from grpo_envs.training.environments import make_envs
from grpo_envs.types import Completion, Group, Reward
from grpo_policy.batch import Batch, collate, micro_batches
from grpo_policy.policy import Policy
from grpo_policy.rollout import Rollout
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import TorchSampler, sample

GPU, HOST = torch.device("cpu", 0), torch.device("cpu")
"""Both are the CPU; they only differ by name."""
_MAKERS = {
    *(torch.tensor, torch.as_tensor, torch.from_numpy, torch.arange, torch.linspace, torch.eye),
    *(torch.zeros, torch.ones, torch.full, torch.empty, torch.rand, torch.randn, torch.randint),
}
_MOVERS = {Tensor.to, Tensor.cpu, torch.as_tensor}
_MAY_MIX = {Tensor.copy_, torch._has_compatible_shallow_copy_type}
_EVEN_NUMBERS = {torch.stack, torch.cat}
"""Elsewhere a single number may be the host's."""


class OtherDevice(AssertionError):
    """Tensors of both devices met in one operation."""


class TwoDevices(TorchFunctionMode):
    """Remembers of each tensor where it would be: made with `device=`, moved there, or computed.

    Stricter than CUDA in one thing: a GPU tensor may not be indexed by one of the host, which CUDA
    allows and waits for.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        if func == Tensor.device.__get__:
            return GPU if where(given[0]) == GPU else HOST
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]  # as Module.to moves its parameters
            args[0]._where = where(args[1])
            return func(*args)
        result = func(*args, **kwargs)
        asked = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.device)]
        if asked and (func in _MOVERS or func in _MAKERS or "device" in kwargs):
            place: torch.device | None = asked[0]
        elif func is Tensor.cpu or (func in _MAKERS and not (func in _MOVERS and given)):
            place = HOST
        else:
            places = {where(x) for x in given if x.ndim > 0 or func in _EVEN_NUMBERS} - {None}
            if len(places) == 2 and func not in _MAY_MIX:
                shapes = [(where(x), tuple(x.shape)) for x in given]
                raise OtherDevice(f"{getattr(func, '__name__', func)}: {shapes}")
            place = GPU if GPU in places else HOST if HOST in places else None
        return mark(result, given, place)


def where(tensor: Tensor) -> torch.device | None:
    """Its place; None for what autograd brings back, which may be anywhere."""
    return getattr(tensor, "_where", None)


def mark(result: Any, given: Sequence[Tensor], place: torch.device | None) -> Any:
    """Note the place of what came out; of something that was moved a new tensor, as on a GPU."""
    if place is None:
        return result
    if isinstance(result, Tensor):
        if any(result is x for x in given) and where(result) not in (None, place):
            result = torch.ops.aten.alias(result)
        setattr(result, "_where", place)  # noqa: B010
    elif isinstance(result, list | tuple):
        for part in result:
            mark(part, (), place)
    return result


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """One whose device is the GPU. Accelerate keeps its state for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    accelerator.state.device = PartialState().device = GPU  # one is copied from the other at times
    yield accelerator
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def on_host(random_policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Policy]:
    """The random model as it is loaded; and the mode is on."""
    copied: Any = nn.Parameter.__deepcopy__

    def copy(parameter: nn.Parameter, memo: dict[int, Any]) -> Any:
        return mark(copied(parameter, memo), (), where(parameter))

    monkeypatch.setattr(nn.Parameter, "__deepcopy__", copy)
    for tensor in (*random_policy.model.parameters(), *random_policy.model.buffers()):
        mark(tensor, (), HOST)
    with TwoDevices():
        yield random_policy


@pytest.fixture
def on_gpu(on_host: Policy) -> Policy:
    """And then moved."""
    assert on_host.device == HOST
    on_host.to(GPU)
    assert on_host.device == GPU
    return on_host


def group(key: int, lengths: Sequence[int], truncated: Sequence[int] = ()) -> Group:
    return Group(
        key=key,
        prompt="",
        prompt_ids=(5, 6, 7)[: 1 + key % 3],
        completions=tuple(
            Completion(
                text="",
                token_ids=tuple(20 + (7 * i + t) % 60 for t in range(n)),
                logprobs=(-2.0,) * n,
                finish_reason="length" if i in truncated else "stop",
            )
            for i, n in enumerate(lengths)
        ),
        rewards=tuple(Reward(parts={"correct": float(i % 2)}) for i in range(len(lengths))),
    )


GIVEN = [group(0, [3, 12, 5, 2], truncated=[1]), group(1, [4, 4, 1, 6]), group(2, [2, 9, 3, 3])]


# --- the simulation itself: it must be able to fail


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(lambda x: x + torch.ones(3), id="a factory without a device"),
        pytest.param(lambda x: x[torch.arange(2)], id="an index of the host"),
        pytest.param(lambda x: torch.cat([x, torch.zeros(1)]), id="in a list"),
        pytest.param(lambda x: torch.stack([x.sum(), torch.tensor(1)]), id="a number in a list"),
        pytest.param(lambda x: x.__setitem__(slice(0, 3), torch.zeros(3)), id="an assignment"),
        pytest.param(lambda x: torch.where(x > 0, x.cpu(), 0.0), id="moved back"),
        pytest.param(lambda x: torch.tensor([1.0] * 3).to(torch.float64) * x, id="to a dtype only"),
        pytest.param(lambda x: torch.rand(3, dtype=x.dtype) @ x, id="noise of the host"),
    ],
)
def test_a_mixture_is_found(on_gpu: Policy, mistake: Callable[[Tensor], object]) -> None:
    with pytest.raises(OtherDevice):
        mistake(torch.zeros(3, dtype=torch.float64, device=on_gpu.device))


def test_what_a_gpu_allows_is_allowed(on_gpu: Policy) -> None:
    x = torch.zeros(3, device=on_gpu.device)
    y = x + torch.tensor(1.0) + torch.ones(3).to(x.device) + x.new_ones(3) + torch.zeros_like(x)
    y[torch.arange(2, device=y.device)] = 0
    assert y.device == GPU
    assert y.cpu().device == HOST
    assert y.device == GPU
    assert (y.cpu() + torch.zeros(3)).tolist() == [0, 0, 3]


# --- every piece, then all of it


def test_a_batch_is_on_the_device_of_the_model(on_gpu: Policy) -> None:
    batch = collate(GIVEN, on_gpu.pad_id, on_gpu.device)
    parts = micro_batches(batch, 20)
    assert len(parts) > 2
    for some in (batch, batch.rows(parts[0]), batch.rows(slice(0, 2))):
        assert {getattr(some, f.name).device for f in fields(Batch)} == {GPU}
    assert {part.device for part in parts} == {GPU}


def test_advantages_losses_and_penalties_stay_on_their_device(on_gpu: Policy) -> None:
    device = on_gpu.device
    logps = torch.full((4, 3), -1.0, device=device).requires_grad_()
    mask = torch.ones((4, 3), dtype=torch.bool, device=device)
    for name in ("standardized", "centered", "leave_one_out", "batch_std", "whitened", "max_rl"):
        scores = Scores(
            rewards_PG=torch.arange(4.0, device=device).view(2, 2),
            valid_PG=torch.ones((2, 2), dtype=torch.bool, device=device),
            mask_PGT=mask.view(2, 2, 3),
        )
        cfg = replace(GrpoConfig().advantage, name=name)
        value = advantages(scores, resolve(ADVANTAGE, cfg))
        assert per_token(value, scores.mask_PGT).device == GPU
    truncated = mask[:, :2].view(4, 2)
    lengths = mask.sum(dim=1, keepdim=True).expand(4, 2)
    for overlong in ({}, {"truncated": "penalise"}, {"buffer": 0.5}):
        taken = overlong_penalty(lengths, truncated, 8, OverlongConfig(**overlong))
        assert taken.device == GPU
    reward = LossConfig(kl="k1", kl_in="reward")
    assert kl_penalty(logps.detach(), logps.detach(), mask, reward).device == GPU
    size = StepSize(completions=4, tokens=12.0, max_tokens=8)
    variants: list[dict[str, Any]] = [
        *({"ratio": ratio} for ratio in ("token", "sequence", "sequence_product")),
        *({"objective": objective} for objective in ("clipped", "cispo", "sapo")),
        *({"kl": kl} for kl in ("k2", "k3", "k3_ratio")),
        *({"aggregate": name} for name in ("sequence_mean", "token_mean", "fixed_length")),
        {"dual_clip": 3.0},
        {"entropy": 0.1},
    ]
    for variant in variants:
        loss_cfg = LossConfig(**variant)
        x = LossInputs(
            logps_BT=logps,
            entropy_BT=logps.detach(),
            old_logps_BT=logps.detach(),
            sampled_logps_BT=logps.detach(),
            ref_logps_BT=logps.detach(),
            advantages_BT=torch.arange(-2.0, 2.0, device=device)[:, None].expand(4, 3),
            mask_BT=mask,
            weights_BT=token_weights(mask.float(), size, loss_cfg),
        )
        loss, values = policy_loss(x, loss_cfg, resolve(OBJECTIVE, loss_cfg))
        loss.backward()
        assert {t.device for t in (loss, *values.values())} == {GPU}


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
def test_sampling_stays_on_the_device(on_gpu: Policy, temperature: float) -> None:
    """Ragged prompts, and rows that end at different times."""
    prompts = [on_gpu.render(text) for text in ("Why?", "What is 1+2?", "What is 1+22?")]
    seeds = range(18)
    how = Decoding(max_new_tokens=8, temperature=temperature)
    on_gpu.eos_ids = sample(on_gpu, prompts, seeds, how)[0].token_ids[2:3]
    assert len({len(c.token_ids) for c in sample(on_gpu, prompts, seeds, how)}) > 1


@pytest.mark.parametrize(
    ("cfg", "metric"),
    [
        pytest.param({}, "loss/kl", id="GRPO"),
        pytest.param({"epochs": 2, "minibatches": 2}, "loss/clipped", id="several updates"),
        pytest.param(
            {"loss": LossConfig(kl="k1", kl_in="reward", ratio="sequence_product")},
            "loss/kl",
            id="KL in the reward",
        ),
        pytest.param(
            {"loss": LossConfig(beta=0.0, entropy=0.1, aggregate="token_mean")},
            "policy/entropy",
            id="an entropy bonus",
        ),
        pytest.param(
            {"overlong": OverlongConfig(truncated="mask", in_baseline=False)},
            "loss/kl",
            id="masked completions",
        ),
        pytest.param({"overlong": OverlongConfig(buffer=0.5)}, "loss/kl", id="a soft penalty"),
        pytest.param(
            {"overlong": OverlongConfig(truncated="penalise")}, "loss/kl", id="a hard penalty"
        ),
        pytest.param({"sync_reference_every": 1}, "loss/kl", id="a synced reference"),
    ],
)
def test_an_update_stays_on_the_device(
    on_gpu: Policy, accelerator: Accelerator, cfg: dict[str, Any], metric: str
) -> None:
    agent = agent_of(on_gpu, accelerator, **cfg)
    for _ in range(2):
        metrics, _ = agent.update(GIVEN)
        assert metrics["optim/skipped"] == 0
        assert metric in metrics
    state = agent.learner.optimizer.state_dict()["state"]
    assert {entry["exp_avg"].device for entry in state.values()} == {GPU}


def agent_of(policy: Policy, accelerator: Accelerator, **changes: Any) -> GrpoAgent:
    cfg = GrpoConfig(lr=1e-3, group_size=4, warmup_steps=0, micro_batch_tokens=30, **changes)
    return GrpoAgent(policy, cfg, accelerator, Decoding(max_new_tokens=12))


def test_the_agent_moves_policy_and_reference(on_host: Policy, accelerator: Accelerator) -> None:
    """The reference is copied from a policy that is already there."""
    agent = agent_of(on_host, accelerator)
    assert agent.learner.reference is not None
    for policy in (agent.policy, agent.learner.reference):
        assert {p.device for p in policy.model.parameters()} == {GPU}
    assert agent.update(GIVEN)[0]["optim/skipped"] == 0


def test_a_resume_moves_what_was_read_from_disk(
    on_gpu: Policy, accelerator: Accelerator, tmp_path: Path
) -> None:
    """Checkpoints are read to the host, as checkpoint.py reads them."""
    first = agent_of(on_gpu, accelerator, sync_reference_every=1)
    first.update(GIVEN)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True, map_location="cpu")
    for tensor in tree_iter(state):
        mark(tensor, (), HOST)
    second = agent_of(on_gpu, accelerator, sync_reference_every=1)
    second.load_state_dict(state)
    metrics, _ = second.update(GIVEN)
    assert metrics["optim/skipped"] == 0


@pytest.mark.parametrize("env", ["math", "guess"])
def test_a_rollout_stays_on_the_device(on_gpu: Policy, accelerator: Accelerator, env: str) -> None:
    """Of one turn, and of a conversation that keeps its cache."""
    envs = GroupVectorEnv(grpo_envs.make(env), 4, 2)
    how, sampler = Decoding(max_new_tokens=4), TorchSampler(on_gpu)
    groups = Rollout(envs, on_gpu.chat, sampler, how, seed=0)([1, 2], Timer())
    metrics, _ = agent_of(on_gpu, accelerator).update(groups)
    assert metrics["policy/sample_gap"] < 1e-5


# --- precision


SMALL = [
    "model.size=tiny",
    "logger=files",
    "trainer.steps=1",
    "trainer.prompts_per_step=2",
    "trainer.eval_problems=2",
    "agent.group_size=4",
    "sampler.max_new_tokens=16",
]


def test_bf16_computes_on_float32_weights(tmp_path: Path) -> None:
    """At a learning rate of 1e-6 a weight in bf16 would not move: 8 bits end at 4e-3 of it."""
    args = ["trainer.device=cpu", "trainer.precision=bf16", "agent.lr=1e-6"]
    cfg = compose_run([*SMALL, *args, "agent.warmup_steps=0"])
    made = build(cfg, tmp_path, make_envs(cfg))
    agent = made.agent
    assert isinstance(agent, GrpoAgent)
    policy = agent.policy
    before = {n: p.clone() for n, p in policy.trained_weights().items()}
    seen: set[tuple[bool, torch.dtype]] = set()
    policy.model.get_output_embeddings().register_forward_hook(
        lambda module, args, logits: seen.add((torch.is_grad_enabled(), logits.dtype))
    )
    made.run()
    assert seen == {(True, torch.bfloat16), (False, torch.bfloat16)}  # scored and sampled in it
    (row,) = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(abs(value) < 1e9 for value in row.values()), row
    assert row["optim/skipped"] == 0
    assert 1e-6 < row["policy/sample_gap"] < 0.1
    after = policy.trained_weights()
    assert {p.dtype for p in after.values()} == {torch.float32}
    for name, p in policy.model.named_parameters():
        assert p.equal(after[name].bfloat16())
    moved = torch.cat([(p != before[n]).flatten() for n, p in after.items()])
    assert moved.float().mean() > 0.9
    states = agent.learner.optimizer.state_dict()["state"].values()
    assert {s["exp_avg"].dtype for s in states} == {torch.float32}
    assert {s["exp_avg_sq"].dtype for s in states} == {torch.float32}


def test_bf16_logits_become_float32_log_probabilities(tiny: Policy) -> None:
    """Each is a log-probability to float32's precision: over the vocabulary they sum to 1."""
    batch = collate([group(0, [40])], tiny.pad_id, tiny.device)
    vocabulary = tiny.model.config.vocab_size
    # Every token of the vocabulary once, as the first token of a completion.
    rows = replace(
        batch,
        input_ids_BL=batch.input_ids_BL[:, :2].repeat(vocabulary, 1),
        prompt_lengths_B=batch.prompt_lengths_B.repeat(vocabulary),
        token_ids_BT=torch.arange(vocabulary)[:, None],
        mask_BT=torch.ones((vocabulary, 1), dtype=torch.bool),
        sampled_logps_BT=torch.zeros((vocabulary, 1)),
        groups_B=torch.arange(vocabulary),
    )
    with tiny.weights_in(torch.bfloat16), torch.no_grad():
        logps_BT, entropy_BT = tiny(rows, 1.0)
    assert logps_BT.dtype == entropy_BT.dtype == torch.float32
    assert logps_BT.double().exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_fp32_is_what_a_cpu_computes_in(tmp_path: Path) -> None:
    cfg = compose_run([*SMALL, "trainer.eval_problems=0"])
    made = build(cfg, tmp_path, make_envs(cfg))
    made.run()
    (row,) = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert row["policy/sample_gap"] < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_real_gpu_does_it_too(tmp_path: Path, precision: str) -> None:
    cfg = compose_run([*SMALL, "trainer.device=cuda", f"trainer.precision={precision}"])
    made = build(cfg, tmp_path, make_envs(cfg))
    made.run()
    (row,) = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert row["optim/skipped"] == 0
    assert row["policy/sample_gap"] < (1e-3 if precision == "fp32" else 0.1)
