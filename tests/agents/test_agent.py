"""The update: what must not change it, what must, and what it says about itself."""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from statistics import fmean
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from grpo_agent import policy_gradient as agent_module
from grpo_agent.agent import GrpoAgent
from grpo_agent.config import AdvantageConfig, GrpoConfig, LossConfig, OverlongConfig
from grpo_agent.loss_options import OFF_POLICY, options_of
from grpo_agent.losses import LossInputs
from grpo_envs.config.composition import compose_run
from grpo_envs.config.model import LoraConfig
from grpo_envs.config.scheduled import value_at
from grpo_envs.env.plugins import conf_dir
from grpo_envs.training.agent import Plan
from grpo_envs.types import Completion, Group, Reward
from grpo_policy.adapters import add_adapters
from grpo_policy.batch import Batch, collate
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.samplers.torch import TorchSampler, sample
from tests.support.oracle import (
    OracleLoss,
    oracle_advantages,
    oracle_covariances,
    oracle_highest,
    oracle_loss,
)

SCORES = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.3, 0.0, 0.0], [1.0, 1.0, 0.0, 0.5]]
MAX_TOKENS = 12
OTHERS = {"ppo", "distill", "sft"}
PRESETS = sorted({path.stem for path in (conf_dir() / "agent").glob("*.yaml")} - OTHERS)
"""Those of GRPO's mechanisms: PPO is another agent, and a distillation needs a teacher."""
EVERY_PRESET = pytest.mark.parametrize("name", PRESETS)


def groups(
    policy: Policy, scores: Sequence[Sequence[float]] = SCORES, temperature: float = 1.0
) -> list[Group]:
    """Real samples of the policy, of different lengths, with the given rewards."""
    found = []
    for p, row in enumerate(scores):
        prompt = policy.render("What is 1+2?" + "+3" * p)
        seeds = [100 * p + i for i in range(len(row))]
        how = Decoding(max_new_tokens=6 + 3 * p, temperature=temperature)
        completions = sample(policy, [prompt], seeds, how)
        rewards = tuple(Reward(parts={"correct": score}) for score in row)
        found.append(
            Group(
                key=p,
                prompt="",
                prompt_ids=prompt,
                completions=tuple(completions),
                rewards=rewards,
            )
        )
    return found


def made(
    lengths: Sequence[int], rewards: Sequence[float], truncated: Sequence[int] = (), *, key: int = 0
) -> Group:
    """A group by hand: its lengths, rewards, and which members ran out of tokens."""
    return Group(
        key=key,
        prompt="",
        prompt_ids=(5, 6, 7 + key),
        completions=tuple(
            Completion(
                text="",
                token_ids=tuple(20 + (7 * i + t) % 60 for t in range(n)),
                logprobs=(-1.0,) * n,
                finish_reason="length" if i in truncated else "stop",
            )
            for i, n in enumerate(lengths)
        ),
        rewards=tuple(Reward(parts={"correct": r}) for r in rewards),
    )


def with_rewards(group: Group, rewards: Sequence[float]) -> Group:
    return replace(group, rewards=tuple(Reward(parts={"correct": r}) for r in rewards))


@cache
def preset(name: str) -> GrpoConfig:
    """A preset as it is shipped; only what has no influence on one gradient is fixed."""
    cfg: GrpoConfig = compose_run([f"agent={name}"]).agent
    return replace(cfg, lr=1e-4, group_size=4, warmup_steps=0, minibatches=1)


def agent_of(
    policy: Policy,
    cfg: GrpoConfig | None = None,
    *,
    temperature: float = 1.0,
    max_tokens: int = MAX_TOKENS,
    **changes: Any,
) -> GrpoAgent:
    cfg = replace(cfg or GrpoConfig(lr=1e-3, group_size=4, warmup_steps=0), **changes)
    decoding = Decoding(max_new_tokens=max_tokens, temperature=temperature)
    return GrpoAgent(policy, cfg, Accelerator(cpu=True), decoding)


def weights(policy: Policy) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in policy.model.named_parameters()}


@torch.no_grad()
def move(policy: Policy, seed: int, far: float = 0.03) -> None:
    """Change every weight a little, so that probabilities differ from what they were."""
    noise = torch.Generator().manual_seed(seed)
    for value in policy.model.parameters():
        value.add_(far * torch.randn(value.shape, generator=noise, dtype=value.dtype))
    policy.masters.publish()


def catch(agent: GrpoAgent) -> list[dict[str, Tensor]]:
    """A list that each update's gradient goes into, on its way into the optimiser."""
    caught: list[dict[str, Tensor]] = []

    def keep(*_: object) -> None:
        named = agent.policy.model.named_parameters()
        caught.append({n: p.grad.clone() for n, p in named if p.grad is not None})

    agent.learner.optimizer.register_step_pre_hook(keep)
    return caught


def gradients(
    policy: Policy, given: Sequence[Group], cfg: GrpoConfig | None = None, **changes: Any
) -> list[dict[str, Tensor]]:
    """The gradients of one call of `update`, unclipped; the policy is as before afterwards.

    The reference and the policy are moved away from what sampled: ratios are not 1 (but where the
    update is on-policy by definition) and the KL is not 0.
    """
    agent = agent_of(policy, cfg, max_grad_norm=1e9, **changes)
    before = weights(policy)
    if agent.learner.reference is not None:
        move(agent.learner.reference, 1)
    move(policy, 2)
    caught = catch(agent)
    agent.update(given)
    policy.model.load_state_dict(before, strict=False)
    policy.masters.publish()
    return caught


def gradient(
    policy: Policy, given: Sequence[Group], cfg: GrpoConfig | None = None, **changes: Any
) -> dict[str, Tensor]:
    """The gradient of a call of `update` that makes one."""
    (only,) = gradients(policy, given, cfg, **changes)
    return only


def same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    """Where the arithmetic differs, 1e-6: Qwen3 computes its norms in float32 all the same."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=tolerance, atol=tolerance)


def size_of(one: dict[str, Tensor]) -> float:
    return max(value.abs().max().item() for value in one.values())


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference."""
    return max((value - other[name]).abs().max().item() for name, value in one.items())


# --- what must not change the update


@EVERY_PRESET
def test_the_micro_batch_changes_nothing(random_policy: Policy, name: str) -> None:
    """Neither the first gradient nor, after a real step, that of a second epoch."""
    given = groups(random_policy)
    lr = 1e-6 if name in ("gspo", "luspo") else 1e-4  # a narrow clip: more leaves no gradient
    cfg = replace(preset(name), epochs=2, lr=lr)
    whole = gradients(random_policy, given, cfg, micro_batch_tokens=10_000)
    assert len(whole) == 2
    assert min(map(size_of, whole)) > 1e-3
    # A row each; for one preset parts of different sizes as well.
    for tokens in (1, 100, 150) if name == "grpo" else (1,):
        parts = gradients(random_policy, given, cfg, micro_batch_tokens=tokens)
        for one, other in zip(whole, parts, strict=True):
            same(one, other)


@EVERY_PRESET
def test_the_order_of_groups_changes_nothing(random_policy: Policy, name: str) -> None:
    given = groups(random_policy)
    cfg = replace(preset(name), epochs=2)
    forth = gradients(random_policy, given, cfg)
    for one, other in zip(forth, gradients(random_policy, given[::-1], cfg), strict=True):
        same(one, other)


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo"])
def test_more_padding_changes_nothing(
    random_policy: Policy, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = groups(random_policy)
    cfg = replace(preset(name), epochs=2)
    lean = gradients(random_policy, given, cfg)

    def padded(groups: Sequence[Group], pad_id: int, device: torch.device) -> Batch:
        batch = collate(groups, pad_id, device)
        grown = {
            field: torch.nn.functional.pad(getattr(batch, field), (0, 5), value=value)
            for field, value in {
                "input_ids_BL": pad_id,
                "token_ids_BT": pad_id,
                "mask_BT": False,
                "sampled_logps_BT": 0.0,
            }.items()
        }
        return replace(batch, **grown)

    monkeypatch.setattr(agent_module, "collate", padded)
    for one, other in zip(lean, gradients(random_policy, given, cfg), strict=True):
        same(one, other)


def test_groups_with_one_prompt_are_two_groups(random_policy: Policy) -> None:
    """Groups are told apart by what they are, not by their prompt: each has its own baseline."""
    one = made([3, 4, 5, 6], [1.0, 0.0, 0.0, 0.0])
    two = replace(one, key=9, rewards=made([1] * 4, [0.0, 1.0, 1.0, 1.0]).rewards)
    agent = agent_of(random_policy, advantage=AdvantageConfig(name="centered"))
    _, advantages = agent.update([one, two])
    assert advantages == [[0.75, -0.25, -0.25, -0.25], [-0.75, 0.25, 0.25, 0.25]]


# --- what the update is: the whole of it against plain loops over tokens, with full logits


def logps_of(policy: Policy, group: Group, member: int, temperature: float) -> Tensor:
    """Log-probabilities (tokens, V) of one unpadded row, from the full logits."""
    prompt, completion = group.prompt_ids, group.completions[member].token_ids
    logits: Tensor = policy.model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0]
    return (logits[len(prompt) - 1 : -1] / temperature).log_softmax(dim=-1)


def chosen(policy: Policy, group: Group, member: int, temperature: float) -> Tensor:
    """Log-probabilities (tokens,) of a completion's own tokens."""
    tokens = torch.tensor(group.completions[member].token_ids)
    return logps_of(policy, group, member, temperature).gather(1, tokens[:, None])[:, 0]


def shaped(group: Group, member: int, ref: Tensor | None, cfg: GrpoConfig) -> float:
    """A reward less what the presets take off it: DAPO's length penalty, RLOO's k1."""
    completion, value = group.completions[member], group.rewards[member].total
    if cfg.overlong.buffer:
        buffer = cfg.overlong.buffer * MAX_TOKENS
        over = max(0.0, len(completion.token_ids) - (MAX_TOKENS - buffer))
        value -= cfg.overlong.penalty * over / buffer
    if ref is not None and cfg.loss.kl_in == "reward":
        gaps = [lp - r for lp, r in zip(completion.logprobs, ref.tolist(), strict=True)]
        value -= cfg.loss.beta * math.fsum(gaps)
    return value


def before_step(
    policy: Policy, given: Sequence[Group], temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies (B, T) from the full logits of each row alone."""
    rows = [(group, i) for group in given for i in range(len(group.completions))]
    every = [logps_of(policy, group, i, temperature).detach() for group, i in rows]
    entropies = [-(lp.exp() * lp).sum(dim=-1) for lp in every]
    old = [chosen(policy, group, i, temperature).detach() for group, i in rows]
    return pad_sequence(old, batch_first=True), pad_sequence(entropies, batch_first=True)


def apart_from_others(x: LossInputs, entropy_BT: Tensor, cfg: LossConfig) -> LossInputs:
    """The tokens that a loss treats apart, from plain loops over the whole step."""
    mask, places = x.mask_BT.tolist(), torch.zeros_like(x.mask_BT)

    def at(found: set[tuple[int, int]]) -> Tensor:
        marked_BT = places.clone()
        for i, t in found:
            marked_BT[i, t] = True
        return marked_BT

    if cfg.top_entropy < 1:
        values = {
            (i, t): entropy_BT[i, t].item()
            for i, row in enumerate(mask)
            for t, counts in enumerate(row)
            if counts
        }
        x = replace(x, forks_BT=at(oracle_highest(values, cfg.top_entropy)))
    if cfg.objective in ("kl_cov", "clip_cov"):
        sampled, a = x.sampled_logps_BT.tolist(), x.advantages_BT.tolist()
        covariances = oracle_covariances(sampled, a, mask)
        options = options_of(cfg)
        singled = oracle_highest(covariances, options["share"])
        if cfg.objective == "clip_cov":  # as many as there are: no draw
            singled = {p for p, c in covariances.items() if options["low"] < c < options["high"]}
        x = replace(x, singled_BT=at(singled))
    return x


def plain_step(
    agent: GrpoAgent,
    given: Sequence[Group],
    old_BT: Tensor | None = None,
    entropy_BT: Tensor | None = None,
) -> tuple[OracleLoss, list[list[float]]]:
    """The loss of a whole step from the full logits of each row alone, and the advantages.

    `old_BT` is None on-policy.
    """
    cfg, reference = agent.cfg, agent.learner.reference
    temperature = agent.learner.settings.temperature
    rows = [(group, i) for group in given for i in range(len(group.completions))]
    lps = [chosen(agent.policy, group, i, temperature) for group, i in rows]
    stored = [torch.tensor(g.completions[i].logprobs, dtype=torch.float64) for g, i in rows]
    refs: list[Tensor | None] = [None for _ in rows]
    if reference is not None:
        refs = [chosen(reference, group, i, temperature).detach() for group, i in rows]
    totals = [
        [shaped(group, i, ref, cfg) for (g, i), ref in zip(rows, refs, strict=True) if g is group]
        for group in given
    ]
    lengths = [[len(c.token_ids) for c in group.completions] for group in given]
    valid = [[True] * len(row) for row in totals]
    advantages = oracle_advantages(totals, valid, lengths, cfg.advantage)
    logps_BT, stored_BT = (pad_sequence(rows, batch_first=True) for rows in (lps, stored))
    known = [ref for ref in refs if ref is not None]
    x = LossInputs(
        logps_BT=logps_BT,
        entropy_BT=torch.zeros_like(logps_BT),
        old_logps_BT=logps_BT.detach() if old_BT is None else old_BT,
        sampled_logps_BT=stored_BT,
        ref_logps_BT=pad_sequence(known, batch_first=True) if known else None,
        advantages_BT=torch.tensor(
            [[a] * logps_BT.shape[1] for row in advantages for a in row], dtype=torch.float64
        ),
        mask_BT=pad_sequence([torch.ones(len(lp), dtype=torch.bool) for lp in lps], True),
        weights_BT=torch.zeros_like(logps_BT),  # the oracle has its own
    )
    if entropy_BT is None:
        _, entropy_BT = before_step(agent.policy, given, temperature)
    x = apart_from_others(x, entropy_BT, cfg.loss)
    return oracle_loss(x, cfg.loss, MAX_TOKENS), advantages


@EVERY_PRESET
def test_an_update_equals_plain_loops_over_full_logits(random_policy: Policy, name: str) -> None:
    """On-policy, then, of weights that have moved, against the policy before the step."""
    given = groups(random_policy, temperature=0.7)
    cfg = replace(preset(name), epochs=2, lr=0.0, max_grad_norm=1e9)  # the test moves them
    if cfg.loss.beta:
        cfg = replace(cfg, loss=replace(cfg.loss, beta=0.3))  # as heavy as the rest
    if name in ("clip_cov", "kl_cov"):  # more than one token, and all that are within bounds
        options = {"share": 1.0, "low": 0.1} if name == "clip_cov" else {"share": 0.2}
        loss = replace(cfg.loss, options=options)
        cfg = replace(cfg, loss=loss)
    agent = agent_of(random_policy, cfg, temperature=0.7)
    if agent.learner.reference is not None:
        move(agent.learner.reference, 1)
    move(random_policy, 2)
    before = before_step(random_policy, given, 0.7)
    steps = [by_plain_loops(agent, given)]
    caught = catch(agent)
    move_once_stepped(agent, seed=3)
    metrics, advantages = agent.update(given)
    steps.append(by_plain_loops(agent, given, *before))
    for got, (_, plain_advantages, plain) in zip(caught, steps, strict=True):
        # What was stored and the reference's log-probabilities are float32.
        assert apart(got, plain) < 1e-5 * size_of(plain)
        for row, expected in zip(advantages, plain_advantages, strict=True):
            assert row == pytest.approx(expected, abs=1e-5)
    losses = [loss for loss, _, _ in steps]
    total = fmean(loss.total.item() for loss in losses)
    assert metrics["loss/total"] == pytest.approx(total, abs=1e-5)
    shares = [fmean(loss.clipped) for loss in losses]
    assert metrics["loss/clipped"] == pytest.approx(fmean(shares), abs=1e-6)
    assert shares[0] == 0 or cfg.loss.objective in ("clip_cov", "kl_cov", *OFF_POLICY)
    assert shares[1] > 0.05 or cfg.loss.objective != "clipped"
    if agent.learner.reference is not None:
        kl = fmean(fmean(loss.kl) for loss in losses)
        assert metrics["loss/kl"] == pytest.approx(kl, rel=1e-4)
        assert metrics["loss/kl"] > 0.01
    assert apart(*caught) > 1e-3


def move_once_stepped(agent: GrpoAgent, seed: int) -> None:
    """Change the weights after the first update."""
    seeds = iter([seed])

    def stepped(*_: object) -> None:
        for one in seeds:
            move(agent.policy, one)

    agent.learner.optimizer.register_step_post_hook(stepped)


def by_plain_loops(
    agent: GrpoAgent, given: Sequence[Group], *before: Tensor
) -> tuple[OracleLoss, list[list[float]], dict[str, Tensor]]:
    """What `plain_step` returns, and its gradient."""
    agent.policy.zero_grad()
    step, advantages = plain_step(agent, given, *before)
    step.total.backward()
    named = agent.policy.model.named_parameters()
    plain = {name: p.grad.clone() for name, p in named if p.grad is not None}
    agent.policy.zero_grad()
    return step, advantages, plain


# --- minibatches and epochs


def test_each_minibatch_is_whole_groups_and_each_row_comes_once_an_epoch(
    random_policy: Policy,
) -> None:
    given = [made([3, 5, 2, 4], [1.0, 0.0, 0.0, 1.0], key=key) for key in range(5)]
    without = LossConfig(beta=0.0)  # a reference would score rows as well, once a step
    agent = agent_of(random_policy, epochs=2, minibatches=3, micro_batch_tokens=20, loss=without)
    seen: list[tuple[int, ...]] = []
    updates: list[list[tuple[int, ...]]] = []

    def look(module: object, args: tuple[Batch, float]) -> None:
        if not torch.is_grad_enabled():
            return  # the policy before the step is scored, too
        batch = args[0]
        lengths = batch.prompt_lengths_B + batch.mask_BT.sum(dim=1)
        for row, n in zip(batch.input_ids_BL.tolist(), lengths.tolist(), strict=True):
            seen.append(tuple(row[:n]))

    def stepped(*_: object) -> None:
        updates.append(seen.copy())
        seen.clear()

    random_policy.register_forward_pre_hook(look)
    agent.learner.optimizer.register_step_pre_hook(stepped)
    metrics, _ = agent.update(given)
    assert metrics["optim/updates"] == 6
    rows = [[(*g.prompt_ids, *c.token_ids) for c in g.completions] for g in given]
    parts = [rows[0] + rows[1], rows[2] + rows[3], rows[4]]  # 5 groups in 3 parts: 2, 2, 1
    assert list(map(sorted, updates)) == list(map(sorted, parts)) * 2


def test_there_are_no_more_minibatches_than_groups(random_policy: Policy) -> None:
    given = [made([3, 5], [1.0, 0.0], key=key) for key in range(2)]
    metrics, _ = agent_of(random_policy, minibatches=7).update(given)
    assert metrics["optim/updates"] == 2


@pytest.mark.parametrize(("correction", "weight"), [("none", 1.0), ("truncate", math.exp(0.1))])
@pytest.mark.parametrize(
    ("epochs", "minibatches"),
    [pytest.param(3, 1, id="three epochs"), pytest.param(1, 3, id="three minibatches")],
)
def test_a_ratio_is_of_the_trainers_numbers_and_the_correction_of_the_samplers(
    random_policy: Policy, epochs: int, minibatches: int, correction: str, weight: float
) -> None:
    """Weights that stay have a ratio of 1, whatever was stored; here e^-0.1 of the truth."""
    given = [made([3, 5, 2, 4], [1.0, 0.0, 0.0, 1.0], key=key) for key in range(3)]
    stored = [
        replace(
            group,
            completions=tuple(
                replace(
                    c,
                    logprobs=tuple((chosen(random_policy, group, i, 1.0) - 0.1).tolist()),
                )
                for i, c in enumerate(group.completions)
            ),
        )
        for group in given
    ]

    def run(steps: list[list[Group]], **changes: Any) -> list[dict[str, Tensor]]:
        agent = agent_of(random_policy, lr=0.0, max_grad_norm=1e9, **changes)
        caught = catch(agent)
        for step in steps:
            agent.update(step)
        return caught

    corrected = LossConfig(beta=0.0, correction=correction)
    got = run([stored], loss=corrected, epochs=epochs, minibatches=minibatches)
    steps = [stored] * 3 if epochs == 3 else [[group] for group in stored]
    on_policy = run(steps, loss=LossConfig(beta=0.0, correction="none"))
    for one, other in zip(got, on_policy, strict=True):
        same(one, {name: weight * value for name, value in other.items()}, 1e-6)


def test_the_correction_is_measured(random_policy: Policy) -> None:
    """By hand: half of the tokens twice as likely as stored, half as likely as stored."""
    (group,) = [made([4, 4], [1.0, 0.0])]
    completions = tuple(
        replace(c, logprobs=tuple((chosen(random_policy, group, i, 1.0) - gap).tolist()))
        for i, (c, gap) in enumerate(zip(group.completions, (math.log(2), 0.0), strict=True))
    )
    loss = LossConfig(beta=0.0, correction="truncate", correction_cap=1.5)
    agent = agent_of(random_policy, lr=0.0, loss=loss)
    metrics, _ = agent.update([replace(group, completions=completions)])
    assert metrics["policy/correction"] == pytest.approx(1.5, abs=1e-5)
    assert metrics["policy/correction_cut"] == 0.5
    assert metrics["policy/correction_ess"] == pytest.approx(1.5**2 / 2.5, abs=1e-5)
    assert "policy/correction_square" not in metrics


# --- truncated completions


HAND = [
    pytest.param({}, [0.5, -0.5, -0.5, 0.5], id="scored like any other"),
    pytest.param({"truncated": "mask"}, [0.5, -0.5, -0.5, 0.5], id="masked, in the baseline"),
    # mean of 1, 0, 1: 2/3
    pytest.param(
        {"truncated": "mask", "in_baseline": False},
        [1 / 3, 0.0, -2 / 3, 1 / 3],
        id="masked, not in the baseline",
    ),
    # rewards 1, -1, 0, 1: mean 1/4
    pytest.param({"truncated": "penalise"}, [0.75, -1.25, -0.25, 0.75], id="penalised by 1"),
    # rewards 1, -0.5, 0, 1: mean 3/8
    pytest.param(
        {"truncated": "penalise", "penalty": 0.5},
        [0.625, -0.875, -0.375, 0.625],
        id="penalised by a half",
    ),
    # L_max 12, buffer 6: lengths 6, 12, 9, 7 pay 0, 1, 1/2, 1/6; rewards 1, -1, -1/2, 5/6
    pytest.param(
        {"buffer": 0.5}, [11 / 12, -13 / 12, -7 / 12, 9 / 12], id="a soft penalty by length"
    ),
    pytest.param(
        {"buffer": 0.5, "penalty": 0.0}, [0.5, -0.5, -0.5, 0.5], id="a soft penalty of nothing"
    ),
]


@pytest.mark.parametrize(("overlong", "expected"), HAND)
def test_truncated_completions_by_hand(
    random_policy: Policy, overlong: dict[str, Any], expected: list[float]
) -> None:
    given = made([6, 12, 9, 7], [1.0, 0.0, 0.0, 1.0], truncated=[1])
    agent = agent_of(
        random_policy,
        advantage=AdvantageConfig(name="centered"),
        overlong=OverlongConfig(**overlong),
    )
    _, advantages = agent.update([given])
    assert advantages[0] == pytest.approx(expected, abs=1e-6)


def test_each_answer_of_a_conversation_has_the_whole_length(random_policy: Policy) -> None:
    """Three answers of 6 of at most 12 tokens are not overlong together."""
    single = made([6, 6, 6, 6], [1.0, 0.0, 0.0, 1.0])
    long = made([20, 6, 20, 6], [1.0, 0.0, 0.0, 1.0])
    turns = (True,) * 6 + (False,) + (True,) * 6 + (False,) + (True,) * 6
    talks = [replace(c, mask=turns) if len(c.token_ids) == 20 else c for c in long.completions]
    agent = agent_of(random_policy, overlong=OverlongConfig(buffer=0.5))
    (alone,) = agent.update([single])[1]
    (together,) = agent.update([replace(long, completions=tuple(talks))])[1]
    assert together == pytest.approx(alone, abs=1e-6)


MASK = OverlongConfig(truncated="mask")


@EVERY_PRESET
def test_a_masked_completion_has_no_influence(random_policy: Policy, name: str) -> None:
    """Other tokens, and other stored log-probabilities, in its place: the gradient is the same."""
    cfg = replace(preset(name), epochs=2, overlong=MASK)
    cfg = replace(cfg, loss=replace(cfg.loss, entropy=0.1, kl_in="loss", kl="k3"))
    given = [
        made([6, 12, 9, 7], [1.0, 0.3, 0.0, 1.0], truncated=[1]),
        made([3, 4, 5, 6], [0.0, 1.0, 0.0, 0.0], key=1),
    ]
    other = Completion(text="", token_ids=(9,) * 12, logprobs=(-4.0,) * 12, finish_reason="length")
    members = given[0].completions
    changed = [replace(given[0], completions=(members[0], other, *members[2:])), given[1]]
    got = gradients(random_policy, given, cfg)
    for one, two in zip(got, gradients(random_policy, changed, cfg), strict=True):
        assert size_of(one) > 1e-3
        same(one, two)
    scored = replace(cfg, overlong=OverlongConfig())
    changes = zip(
        gradients(random_policy, given, scored),
        gradients(random_policy, changed, scored),
        strict=True,
    )
    assert all(apart(one, two) > 1e-3 for one, two in changes)


def test_a_masked_completion_does_not_count_as_tokens_of_the_step(random_policy: Policy) -> None:
    """token_mean: 6 + 9 + 7 tokens; what was masked is not one of them."""
    loss = LossConfig(beta=0.0, aggregate="token_mean")
    centered = AdvantageConfig(name="centered")
    given = made([6, 12, 9, 7], [1.0, 0.5, 0.0, 0.5], truncated=[1])  # its own advantage is 0
    masked = gradient(random_policy, [given], loss=loss, advantage=centered, overlong=MASK)
    scored = gradient(random_policy, [given], loss=loss, advantage=centered)
    same(masked, {name: value * 34 / 22 for name, value in scored.items()}, 1e-6)


def test_a_step_of_masked_completions_only_changes_nothing(random_policy: Policy) -> None:
    given = made([12] * 4, [1.0, 0.0, 0.0, 1.0], truncated=range(4))
    before = weights(random_policy)
    for aggregate in ("sequence_mean", "token_mean", "fixed_length"):
        agent = agent_of(random_policy, overlong=MASK, loss=LossConfig(aggregate=aggregate))
        metrics, _ = agent.update([given])
        assert metrics["optim/skipped"] == 0
        same(before, weights(random_policy))


def test_one_success_in_eight_by_hand(random_policy: Policy) -> None:
    """The numbers of the design: an unbiased std, 1e-4 added to it."""
    given = made([3] * 8, [1.0] + [0.0] * 7)
    _, advantages = agent_of(random_policy, group_size=8).update([given])
    assert advantages[0] == pytest.approx([2.474] + [-0.3535] * 7, abs=2e-4)


# --- the KL in the reward


def test_kl_in_the_reward_is_a_reward_and_no_loss(random_policy: Policy) -> None:
    """As if the rewards had been r - beta * sum(log pi - log pi_ref), and there were no KL."""
    given = groups(random_policy)
    cfg = replace(preset("rloo"), max_grad_norm=1e9)
    cfg = replace(cfg, loss=replace(cfg.loss, beta=0.05))
    agent = agent_of(random_policy, cfg)
    assert agent.learner.reference is not None
    move(agent.learner.reference, 1)
    caught = catch(agent)
    before = weights(random_policy)
    metrics, advantages = agent.update(given)
    random_policy.model.load_state_dict(before, strict=False)

    by_hand = []
    with torch.no_grad():
        for group in given:
            totals = []
            for i, (completion, reward) in enumerate(
                zip(group.completions, group.rewards, strict=True)
            ):
                ref = chosen(agent.learner.reference, group, i, 1.0)
                gaps = [lp - r for lp, r in zip(completion.logprobs, ref.tolist(), strict=True)]
                totals.append(reward.total - 0.05 * math.fsum(gaps))
            by_hand.append(with_rewards(group, totals))
    free = replace(cfg, loss=replace(cfg.loss, beta=0.0))
    plain = agent_of(random_policy, free)
    expected = catch(plain)
    _, their_advantages = plain.update(by_hand)
    for one, two in zip(advantages, their_advantages, strict=True):
        assert one == pytest.approx(two, abs=1e-6)
    same(caught[0], expected[0], 1e-6)
    _, unpunished = agent_of(random_policy, free).update(given)
    assert max(abs(a - b) for a, b in zip(advantages[0], unpunished[0], strict=True)) > 0.01
    assert metrics["loss/kl"] > 0.01  # logged all the same


# --- entropy


def test_the_entropy_bonus_is_that_of_the_whole_vocabulary(random_policy: Policy) -> None:
    """Its gradient against autograd through the full distribution; the metric against its mean."""
    given = groups(random_policy)
    without = gradient(random_policy, given, loss=LossConfig(beta=0.0))
    agent = agent_of(random_policy, loss=LossConfig(beta=0.0, entropy=0.3), max_grad_norm=1e9)
    move(random_policy, 2)
    before = weights(random_policy)
    caught = catch(agent)
    metrics, _ = agent.update(given)
    random_policy.model.load_state_dict(before, strict=False)
    random_policy.zero_grad()
    entropies = []
    for group in given:
        for i in range(4):
            logps = logps_of(random_policy, group, i, 1.0)
            entropies.append(-(logps.exp() * logps).sum(dim=-1))
    bonus = torch.stack([values.mean() for values in entropies]).mean()
    (-0.3 * bonus).backward()
    expected = {
        name: without[name] + value.grad
        for name, value in random_policy.model.named_parameters()
        if value.grad is not None
    }
    assert apart(without, expected) > 1e-2
    same(caught[0], expected, 1e-6)
    assert metrics["policy/entropy"] == pytest.approx(torch.cat(entropies).mean().item())


# --- one update and the next


def test_good_answers_become_likelier_and_bad_ones_less_likely(random_policy: Policy) -> None:
    given = groups(random_policy, [[1.0, 0.0, 0.0, 0.0]])
    agent = agent_of(random_policy, loss=LossConfig(beta=0.0))
    before = [_logp(random_policy, given[0], i) for i in range(4)]
    _, advantages = agent.update(given)
    change = [_logp(random_policy, given[0], i) - before[i] for i in range(4)]
    assert advantages[0][0] > 0 > advantages[0][1]
    assert change[0] > 0
    assert sum(change[1:]) < 0


def _logp(policy: Policy, group: Group, member: int) -> float:
    completion = group.completions[member]
    ids = torch.tensor([[*group.prompt_ids, *completion.token_ids]])
    with torch.no_grad():
        logps = policy.model(input_ids=ids).logits[0].log_softmax(-1)[:-1]
    start = len(group.prompt_ids) - 1
    return float(logps[start:].gather(1, ids[0, start + 1 :, None]).sum())


def test_flat_groups_leave_the_policy_alone(random_policy: Policy) -> None:
    given = groups(random_policy, [[0.1] * 4, [1.1] * 4])
    before = weights(random_policy)
    agent_of(random_policy, loss=LossConfig(beta=0.0)).update(given)
    assert all(torch.equal(before[n], w) for n, w in weights(random_policy).items())


def test_an_invalid_member_weighs_nothing(random_policy: Policy) -> None:
    """Whatever the reward of a member whose grader failed, nothing changes."""
    given = groups(random_policy)
    broken = Reward(valid=False, error="sandbox down")
    rewards = (*given[0].rewards[:3], broken)
    _, advantages = agent_of(random_policy).update([replace(given[0], rewards=rewards)])
    assert advantages[0][3] == 0
    assert sum(advantages[0]) == pytest.approx(0, abs=1e-6)


def test_on_policy_the_sampler_and_the_scorer_agree(random_policy: Policy) -> None:
    metrics, _ = agent_of(random_policy).update(groups(random_policy))
    assert metrics["policy/sample_gap"] < 1e-5
    assert metrics["loss/clipped"] == 0
    assert metrics["loss/kl"] == pytest.approx(0, abs=1e-12)
    assert metrics["policy/entropy"] > 0


def test_a_second_epoch_meets_the_clip(random_policy: Policy) -> None:
    """The ratio is against the sampling policy: after a large first update it leaves its bounds."""
    given = groups(random_policy)
    metrics, _ = agent_of(random_policy, epochs=2, lr=3e-2).update(given)
    assert metrics["loss/clipped"] > 0.05  # a mean over two updates, the first has ratio 1
    assert metrics["policy/sample_gap"] < 1e-5  # of the first update: what sampling got wrong


def test_the_reference_stays_where_it_was(random_policy: Policy) -> None:
    given = groups(random_policy)
    agent = agent_of(random_policy, lr=1e-2)
    agent.update(given)
    metrics, _ = agent.update(given)
    assert metrics["loss/kl"] > 1e-4
    assert agent.learner.reference is not None
    assert not any(p.requires_grad for p in agent.learner.reference.parameters())


def test_without_a_penalty_there_is_no_reference(random_policy: Policy) -> None:
    agent = agent_of(random_policy, loss=LossConfig(beta=0.0))
    metrics, _ = agent.update(groups(random_policy))
    assert agent.learner.reference is None
    assert "loss/kl" not in metrics


def test_warm_up_is_linear(random_policy: Policy) -> None:
    agent = agent_of(random_policy, lr=4e-4, warmup_steps=3)
    given = groups(random_policy, [[1.0, 0.0, 0.0, 0.0]])
    rates = [agent.update(given)[0]["optim/lr"] for _ in range(5)]
    assert rates == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4, 4e-4])


SCHEDULED = {
    "clip_low": (0.9, 0.001),
    "clip_high": (0.9, 0.001),
    "beta": (0.1, 0.5),
    "entropy": (0.0, 0.3),
    "temperature": (1.0, 0.6),
}


@pytest.mark.parametrize("key", SCHEDULED)
def test_a_schedule_trains_as_its_values_do_one_after_another(
    random_policy: Policy, key: str
) -> None:
    given = groups(random_policy)
    start, (first, then) = weights(random_policy), SCHEDULED[key]

    def agent(value: Any) -> GrpoAgent:
        if key == "temperature":
            one = agent_of(random_policy, temperature=first, epochs=2)
            plan = Plan(temperature=value)
            decoding = Decoding(max_new_tokens=MAX_TOKENS, temperature=value_at(value, 1))
            return GrpoAgent(random_policy, one.cfg, Accelerator(cpu=True), decoding, plan=plan)
        return agent_of(random_policy, epochs=2, loss=LossConfig(**{key: value}))

    scheduled = agent({0: first, 2: then})
    shown = [scheduled.update(given)[0][f"schedule/{key}"] for _ in range(3)]
    assert shown == [first, then, then]
    expected = weights(random_policy)
    random_policy.model.load_state_dict(start, strict=False)
    before, after = agent(first), agent(then)
    metrics, _ = before.update(given)
    assert not any(name.startswith("schedule/") for name in metrics)
    after.load_state_dict(deepcopy(before.state_dict()))
    after.update(given)
    after.update(given)
    same(expected, weights(random_policy))
    random_policy.model.load_state_dict(start, strict=False)
    unchanged = agent(first)
    for _ in range(3):
        unchanged.update(given)
    assert apart(expected, weights(random_policy)) > 1e-7


def test_gradients_are_clipped(random_policy: Policy) -> None:
    given = groups(random_policy)
    agent = agent_of(random_policy, max_grad_norm=1e-3)
    norms = []

    def catch(*_: object) -> None:
        norms.append(
            torch.stack(
                [p.grad.norm() for p in random_policy.parameters() if p.grad is not None]
            ).norm()
        )

    agent.learner.optimizer.register_step_pre_hook(catch)
    metrics, _ = agent.update(given)
    assert metrics["optim/grad_norm"] > 1e-2
    assert norms[0].item() == pytest.approx(1e-3, rel=1e-2)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(random_policy: Policy) -> None:
    given = groups(random_policy)
    agent = agent_of(random_policy)
    before = weights(random_policy)
    head = random_policy.model.get_input_embeddings()
    handle = head.weight.register_hook(lambda grad: grad * float("nan"))
    metrics, _ = agent.update(given)
    handle.remove()
    assert metrics["optim/skipped"] == 1
    assert all(torch.equal(before[n], w) for n, w in weights(random_policy).items())


def test_state_survives_a_round_trip(random_policy: Policy) -> None:
    given = groups(random_policy)
    first = agent_of(random_policy, warmup_steps=4)
    first.update(given)
    model, state = weights(random_policy), deepcopy(first.state_dict())
    first.update(given)
    expected = weights(random_policy)
    random_policy.model.load_state_dict(model, strict=False)
    second = agent_of(random_policy, warmup_steps=4)
    second.learner.reference = first.learner.reference
    second.load_state_dict(state)
    second.update(given)
    same(expected, weights(random_policy))


def test_a_synced_reference_follows_every_second_step(random_policy: Policy) -> None:
    given = groups(random_policy)
    agent = agent_of(random_policy, lr=1e-2, sync_reference_every=2)
    kl = [agent.update(given)[0]["loss/kl"] for _ in range(5)]
    # Steps 1, 3 and 5 start where the reference is; 2 and 4 one update away from it.
    assert [value > 1e-5 for value in kl] == [False, True, False, True, False]
    assert agent.learner.reference is not None
    assert not any(p.requires_grad for p in agent.learner.reference.parameters())


def test_a_synced_reference_and_its_rhythm_survive_a_round_trip(random_policy: Policy) -> None:
    given = groups(random_policy)
    start = weights(random_policy)
    first = agent_of(random_policy, lr=1e-2, sync_reference_every=2)
    for _ in range(3):
        first.update(given)
    model, state = weights(random_policy), deepcopy(first.state_dict())
    assert state["reference"] is not None
    expected = [first.update(given)[0]["loss/kl"] for _ in range(2)]
    random_policy.model.load_state_dict(start, strict=False)
    second = agent_of(random_policy, lr=1e-2, sync_reference_every=2)
    random_policy.model.load_state_dict(model, strict=False)
    second.load_state_dict(state)
    assert [second.update(given)[0]["loss/kl"] for _ in range(2)] == pytest.approx(
        expected, rel=1e-6, abs=1e-12
    )
    assert expected[0] > 1e-5 > expected[1]


def test_a_reference_that_never_changes_is_not_in_the_checkpoint(random_policy: Policy) -> None:
    assert agent_of(random_policy).state_dict()["reference"] is None


def test_some_updates_are_skipped_and_the_others_made(random_policy: Policy) -> None:
    """The first of three is not finite; the others must not inherit any of it."""
    given = [made([3, 5, 2, 4], [1.0, 0.0, 0.0, 1.0], key=key) for key in range(3)]
    agent = agent_of(random_policy, minibatches=3, lr=1e-3, warmup_steps=9)
    before = weights(random_policy)
    spoiled = [True, False, False]
    head = random_policy.model.get_input_embeddings()
    updates: list[None] = []

    def spoil(grad: Tensor) -> Tensor:
        return grad * float("nan") if not updates and spoiled[0] else grad

    handle = head.weight.register_hook(spoil)
    zero_grad = agent.learner.optimizer.zero_grad

    def counted() -> None:
        updates.append(None)
        zero_grad()

    agent.learner.optimizer.zero_grad = counted  # type: ignore[method-assign, assignment]
    metrics, _ = agent.update(given)
    handle.remove()
    assert (metrics["optim/skipped"], metrics["optim/updates"]) == (1, 3)
    after = weights(random_policy)
    assert apart(before, after) > 1e-5
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert agent.learner.schedule.last_epoch == 1


def test_a_step_without_an_update_leaves_the_warm_up_where_it_was(random_policy: Policy) -> None:
    given = groups(random_policy)
    agent = agent_of(random_policy, warmup_steps=9, epochs=2)
    head = random_policy.model.get_input_embeddings()
    handle = head.weight.register_hook(lambda grad: grad * float("inf"))
    metrics, _ = agent.update(given)
    handle.remove()
    assert (metrics["optim/skipped"], metrics["optim/updates"]) == (2, 2)
    assert agent.learner.schedule.last_epoch == 0
    assert agent.update(given)[0]["optim/skipped"] == 0  # nothing of it is left in the gradient


@pytest.mark.parametrize("temperature", [0.6, 1.5])
def test_what_was_sampled_at_a_temperature_is_scored_at_it(
    random_policy: Policy, temperature: float
) -> None:
    given = groups(random_policy, temperature=temperature)
    agent = agent_of(random_policy, temperature=temperature)
    assert agent.update(given)[0]["policy/sample_gap"] < 1e-5
    other = agent_of(random_policy, temperature=1.0, lr=0.0)
    assert other.update(given)[0]["policy/sample_gap"] > 0.05


def test_what_the_sampler_stored_clips_nothing(random_policy: Policy) -> None:
    given = [made([3, 5, 2, 4], [1.0, 0.0, 0.0, 1.0])]  # stored: -1 each, far from the truth
    once, _ = agent_of(random_policy, lr=0.0).update(given)
    twice, _ = agent_of(random_policy, lr=0.0, epochs=2).update(given)
    assert once["loss/clipped"] == twice["loss/clipped"] == 0
    assert twice["policy/sample_gap"] == once["policy/sample_gap"] > 0.5


@pytest.mark.parametrize(
    ("rank", "sampled_in"),
    [
        pytest.param(0, None, id="its own"),
        pytest.param(0, torch.float32, id="float32"),
        pytest.param(4, None, id="adapters"),
    ],
)
def test_in_bf16_a_policy_that_stays_has_a_ratio_of_1(
    tiny: Policy, rank: int, sampled_in: torch.dtype | None
) -> None:
    """GSPO clips beyond 3e-4: numbers in bf16 depend on a batch's shape by more than that."""
    if rank:
        add_adapters(tiny, LoraConfig(rank=rank), torch.bfloat16)
        for name, p in tiny.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1)
    tiny.compute_in(torch.bfloat16)
    cfg: GrpoConfig = compose_run(["agent=gspo"]).agent
    decoding = Decoding(max_new_tokens=8)
    given = [
        replace(group, rewards=made([1] * 4, [1.0, 0.0, 0.0, 1.0]).rewards)
        for group in groups_of(tiny, sampled_in)
    ]
    cfg = replace(cfg, lr=0.0, group_size=4)
    agent = GrpoAgent(tiny, cfg, Accelerator(cpu=True), decoding)
    metrics, _ = agent.update(given)
    assert metrics["optim/updates"] == 4
    assert metrics["policy/sample_gap"] > 3e-4
    assert metrics["loss/clipped"] == 0


def groups_of(policy: Policy, dtype: torch.dtype | None) -> list[Group]:
    """Four groups of four that the policy has sampled, its weights in `dtype` or as they are."""
    prompts = [policy.render(f"What is {n} + {n}?") for n in range(4)]
    sampler = TorchSampler(policy, dtype)
    found = dict(sampler.sample(prompts, list(range(16)), Decoding(max_new_tokens=8)))
    return [
        Group(key=i, prompt="", prompt_ids=prompt, completions=tuple(found[i]), rewards=())
        for i, prompt in enumerate(prompts)
    ]
