"""Our loss and TRL's on the same numbers, and on one model: the same loss, the same gradient.

`GRPOTrainer._compute_loss` itself runs, of a real trainer. Compared is whatever both define. Not
compared, because only one has it or the two differ by design:
- sequence_product, k2 and dual clip are ours. TRL's `delta` is another two-sided clipping: it
  bounds the ratio before the minimum is taken, of good actions too.
- TRL corrects the KL by the ratio that the objective has, we by the token's: equal for tokens only.
- TRL's entropy bonus is the mean over tokens whatever the loss: ours only under token_mean.
- TRL clamps no log ratio; ours ends at +-20.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from grpo_agent.config import LossConfig
from grpo_agent.losses import LossInputs, StepSize, policy_loss, token_weights
from grpo_agent.mechanisms import OBJECTIVE, resolve
from grpo_envs.types import Completion, Group, Reward
from grpo_policy.batch import Batch, collate
from grpo_policy.policy import Policy
from tests.conftest import make_random_policy

trl = pytest.importorskip("trl")
pytestmark = pytest.mark.slow

MAX_TOKENS = 8
TEMPERATURE = 0.9


@dataclass(frozen=True, kw_only=True)
class Twin:
    """One loss, as settings of each of the two."""

    ours: dict[str, Any]
    theirs: dict[str, Any]

    def __or__(self, other: "Twin") -> "Twin":
        return Twin(ours=self.ours | other.ours, theirs=self.theirs | other.theirs)


CLIP = Twin(
    ours={"clip_low": 0.2, "clip_high": 0.28}, theirs={"epsilon": 0.2, "epsilon_high": 0.28}
)
LOSSES = {
    "grpo": CLIP | Twin(ours={"aggregate": "sequence_mean"}, theirs={"loss_type": "grpo"}),
    "bnpo": CLIP | Twin(ours={"aggregate": "token_mean"}, theirs={"loss_type": "bnpo"}),
    "dapo": CLIP | Twin(ours={"aggregate": "token_mean"}, theirs={"loss_type": "dapo"}),
    "dr_grpo": CLIP | Twin(ours={"aggregate": "fixed_length"}, theirs={"loss_type": "dr_grpo"}),
    "cispo": Twin(  # in both the cap is absolute, not above 1
        ours={"objective": "cispo", "options": {"cap": 1.4}, "aggregate": "token_mean"},
        theirs={"loss_type": "cispo", "epsilon_high": 1.4},
    ),
    # Temperatures that float32 has: TRL's are, whatever the type of the ratio.
    "sapo": Twin(
        ours={"objective": "sapo", "options": {"tau_positive": 0.75, "tau_negative": 1.25}},
        theirs={"loss_type": "sapo", "sapo_temperature_pos": 0.75, "sapo_temperature_neg": 1.25},
    ),
}
LEVELS = {
    "token": Twin(ours={"ratio": "token"}, theirs={"importance_sampling_level": "token"}),
    "sequence": Twin(ours={"ratio": "sequence"}, theirs={"importance_sampling_level": "sequence"}),
}
KLS = {
    "no_kl": Twin(ours={"beta": 0.0}, theirs={"beta": 0.0}),
    "k3": Twin(
        ours={"beta": 0.3, "kl": "k3"}, theirs={"beta": 0.3, "use_bias_correction_kl": False}
    ),
    "k3_ratio": Twin(
        ours={"beta": 0.3, "kl": "k3_ratio"}, theirs={"beta": 0.3, "use_bias_correction_kl": True}
    ),
}
ENTROPIES = {
    "no_bonus": Twin(ours={"entropy": 0.0}, theirs={"entropy_coef": 0.0}),
    "bonus": Twin(ours={"entropy": 0.1}, theirs={"entropy_coef": 0.1}),
}
BOTH_DEFINE = [
    pytest.param(LOSSES[loss] | LEVELS[level] | KLS[kl] | ENTROPIES[entropy],
                 id=f"{loss}-{level}-{kl}-{entropy}")
    for loss in LOSSES
    for level in LEVELS
    for kl in KLS
    for entropy in ENTROPIES
    if (level, kl) != ("sequence", "k3_ratio")
    and (entropy == "no_bonus" or LOSSES[loss].ours.get("aggregate") == "token_mean")
]  # fmt: skip


def make_trainer(policy: Policy, folder: Path, settings: dict[str, Any]) -> Any:
    """A GRPOTrainer that is never trained: only its loss is asked."""
    from datasets import Dataset

    # With a beta it would look for the reference model on a hub: the loss reads beta from the
    # trainer, and the reference's log-probabilities from its inputs.
    args = trl.GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        activation_checkpointing=False,
        per_device_train_batch_size=8,
        num_generations=8,
        max_completion_length=MAX_TOKENS,
        temperature=TEMPERATURE,
        **settings | {"beta": 0.0},
    )
    trainer = trl.GRPOTrainer(
        model=policy.model,
        reward_funcs=lambda prompts, **_: [0.0] * len(prompts),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["1 + 1 ="] * 8}),
        processing_class=policy.tokenizer,
    )
    trainer.beta = settings["beta"]
    return trainer


def their_inputs(x: LossInputs, batch: Batch, pad_id: int) -> dict[str, Any]:
    """What TRL calls these rows: prompts padded on the left, completions on the right."""
    lengths = batch.prompt_lengths_B.tolist()
    longest = max(lengths)
    prompts = [row[:n] for row, n in zip(batch.input_ids_BL.tolist(), lengths, strict=True)]
    return {
        "prompt_ids": torch.tensor([[pad_id] * (longest - len(p)) + p for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (longest - n) + [1] * n for n in lengths]),
        "completion_ids": batch.token_ids_BT,
        "completion_mask": x.mask_BT.long(),
        "advantages": x.advantages_BT[:, 0],
        "old_per_token_logps": x.old_logps_BT,
        "ref_per_token_logps": x.ref_logps_BT,
        "num_items_in_batch": x.mask_BT.sum(),
    }


# A row: how many tokens it has, its advantage, the mean of its tokens' log ratios.
ROWS = [
    (6, +1.3, +0.4),
    (4, -0.8, -0.5),
    (1, +2.1, +0.1),
    (5, -1.7, +1.1),
    (3, +0.0, +0.8),
    (6, +0.6, -0.3),
    (2, -0.4, +0.05),
    (5, -0.9, +0.35),
]


def rows_of(policy: Policy) -> Batch:
    """Prompts and completions of many lengths, of any tokens."""
    rng = random.Random(5)
    groups = [
        Group(
            key=i,
            prompt="",
            prompt_ids=tuple(rng.randrange(20) for _ in range(2 + i % 3)),
            completions=(
                Completion(
                    text="",
                    token_ids=tuple(rng.randrange(20) for _ in range(length)),
                    logprobs=(0.0,) * length,
                ),
            ),
            rewards=(Reward(),),
        )
        for i, (length, _, _) in enumerate(ROWS)
    ]
    return collate(groups, policy.pad_id, policy.device)


def loss_inputs(
    logps_BT: Tensor, entropy_BT: Tensor, mask_BT: Tensor, cfg: LossConfig
) -> LossInputs:
    """These scores, with an old policy and a reference that are some way off."""
    rng = random.Random(7)
    old_BT, ref_BT = logps_BT.detach().clone(), logps_BT.detach().clone()
    for i, (length, _, shift) in enumerate(ROWS):
        noise = [rng.gauss(0, 0.5) for _ in range(length)]
        for t in range(length):
            old_BT[i, t] -= shift + noise[t] - fmean(noise)
            ref_BT[i, t] += rng.gauss(0, 0.7)
    size = StepSize(completions=len(ROWS), tokens=float(mask_BT.sum()), max_tokens=MAX_TOKENS)
    return LossInputs(
        logps_BT=logps_BT,
        entropy_BT=entropy_BT,
        old_logps_BT=old_BT,
        sampled_logps_BT=old_BT,
        ref_logps_BT=ref_BT if cfg.beta else None,
        advantages_BT=torch.tensor(
            [[a] * logps_BT.shape[1] for _, a, _ in ROWS], dtype=logps_BT.dtype
        ),
        mask_BT=mask_BT,
        weights_BT=token_weights(mask_BT.to(logps_BT.dtype), size, cfg),
    )


@pytest.fixture(scope="module")
def policy() -> Policy:
    return make_random_policy()


@pytest.mark.parametrize("twin", BOTH_DEFINE)
def test_the_same_numbers_give_the_same_loss_and_gradient(
    twin: Twin, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TRL's kernel accumulates in float32. Its scores are replaced by given ones, in float64.
    cfg = LossConfig(**twin.ours)
    batch = rows_of(policy)
    torch.manual_seed(1)
    scores = [torch.rand(batch.mask_BT.shape, dtype=torch.float64) for _ in range(2)]
    logps_BT, entropy_BT = (-2 - scores[0]).requires_grad_(), (3 * scores[1]).requires_grad_()
    trainer = make_trainer(policy, tmp_path, twin.theirs)
    monkeypatch.setattr(
        trainer,
        "_get_per_token_logps_and_entropies",
        lambda *_, **__: (logps_BT, entropy_BT, None),
    )
    x = loss_inputs(logps_BT, entropy_BT, batch.mask_BT, cfg)
    theirs = trainer._compute_loss(policy.model, their_inputs(x, batch, policy.pad_id))
    ours, values = policy_loss(x, cfg, resolve(OBJECTIVE, cfg))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    got = gradients(ours, [logps_BT, entropy_BT])
    for mine, other in zip(got, gradients(theirs, [logps_BT, entropy_BT]), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)
    assert got[0].abs().max() > 0
    if cfg.objective == "clipped":
        region = trainer._metrics["eval"]["clip_ratio/region_mean"][-1]
        share = values["loss/clipped"][x.mask_BT].mean().item()
        if cfg.ratio == "token":  # of a sequence TRL counts completions, we tokens
            assert share == pytest.approx(region, abs=1e-6)
        assert share > 0.2
    if cfg.beta and cfg.kl == "k3":
        kl = values["loss/kl"][x.mask_BT].mean().item()
        assert kl == pytest.approx(trainer._metrics["eval"]["kl"][-1], rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("level", LEVELS)
def test_one_model_gets_the_same_gradient(
    loss: str, level: str, random_policy: Policy, tmp_path: Path
) -> None:
    kl = "k3_ratio" if level == "token" else "k3"
    entropy = "bonus" if LOSSES[loss].ours.get("aggregate") == "token_mean" else "no_bonus"
    twin = LOSSES[loss] | LEVELS[level] | KLS[kl] | ENTROPIES[entropy]
    cfg = LossConfig(**twin.ours)
    policy, batch = random_policy, rows_of(random_policy)
    logps_BT, entropy_BT = policy(batch, TEMPERATURE, entropy_grad=True)
    x = loss_inputs(logps_BT, entropy_BT, batch.mask_BT, cfg)
    ours, _ = policy_loss(x, cfg, resolve(OBJECTIVE, cfg))
    expected = gradients(ours, policy.trained_parameters())
    trainer = make_trainer(policy, tmp_path, twin.theirs)  # changes the model's forward
    theirs = trainer._compute_loss(policy.model, their_inputs(x, batch, policy.pad_id))
    got = gradients(theirs, policy.trained_parameters())
    torch.testing.assert_close(theirs.double(), ours, rtol=1e-5, atol=1e-6)
    for mine, other in zip(expected, got, strict=True):
        assert mine.abs().max() > 0
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def gradients(loss: Tensor, leaves: list[Any]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        loss, leaves, allow_unused=True, materialize_grads=True, retain_graph=True
    )
