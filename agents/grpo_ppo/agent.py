"""PpoAgent: a learnt value of each state is the baseline, instead of the group's mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor

from grpo_agent.advantages import per_member
from grpo_agent.policy_gradient import PolicyGradientAgent
from grpo_agent.shaping import overlong_penalty, token_kl
from grpo_agent.step import Step
from grpo_envs.types import Group
from grpo_policy.batch import Batch
from grpo_policy.learner import Learner, LearnerSettings, RowLoss, Scored
from grpo_policy.policy import Policy
from grpo_policy.samplers import Decoding
from grpo_policy.value_head import add_value_head, load_value_head, value_head_weights
from grpo_ppo.config import PpoConfig
from grpo_ppo.critic import Critic
from grpo_ppo.gae import advantages, mean_and_std, token_rewards, whitened
from grpo_ppo.value_loss import explained_variance, value_loss

_FASTER = 10.0
"""The default ratio of the critic's learning rate to the policy's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PpoStep(Step):
    """The rows of one step, with values and returns."""

    old_values_BT: Tensor
    """Values of the critic before the step."""
    returns_BT: Tensor
    taught_BT: Tensor
    """True on the tokens from which the critic learns: those with a valid reward."""


class PpoAgent(PolicyGradientAgent):
    """Proximal Policy Optimization (PPO, arXiv 1707.06347) on the tokens of a language model.

        J = E[ sum_t min(rho_t A_t, clip(rho_t, 1-eps, 1+eps) A_t) - coef * L_V ]

    `grpo_ppo.gae` computes the advantages A_t, `grpo_ppo.value_loss` the critic's loss L_V. A
    critic with its own body has its own learner. It runs after the policy's, so the activations of
    both are never in memory together.
    """

    Config: ClassVar[type[PpoConfig]] = PpoConfig
    cfg: PpoConfig

    def __init__(
        self,
        policy: Policy,
        cfg: PpoConfig,
        accelerator: Accelerator,
        decoding: Decoding,
        **known: Any,
    ) -> None:
        """Prepare `policy` for training, see `PolicyGradientAgent`, and make the critic from it."""
        own = cfg.critic.body == "own"
        critic = Critic.of(policy) if own else None
        if not own:
            add_value_head(policy)
        super().__init__(policy, cfg, accelerator, decoding, **known)
        self.critic: Learner | None = None
        """The learner of a critic with its own body; None with a shared body."""
        if critic is not None:
            self.critic = Learner(critic, self._settings_of_critic(), accelerator)

    def _settings(self, temperature: float) -> LearnerSettings:
        settings = super()._settings(temperature)
        lr = _FASTER * settings.lr if self.cfg.critic.lr is None else self.cfg.critic.lr
        return replace(settings, head_lr=lr)

    def _settings_of_critic(self) -> LearnerSettings:
        return replace(
            self.learner.settings,
            lr=self.learner.settings.head_lr,
            entropy_grad=False,
            reference=False,
            sync_reference_every=0,
        )

    def formulas(self) -> dict[str, tuple[str, Callable[..., Any]]]:
        """Return the choices behind the advantages by key: their names, and what computes them."""
        cfg = self.cfg
        found: dict[str, tuple[str, Callable[..., Any]]] = {}
        if cfg.reference and cfg.loss.kl_in == "reward":
            found["agent.loss.kl_in"] = ("reward", token_rewards)
        found["agent.lam"] = (f"{cfg.lam:g}", partial(advantages, gamma=cfg.gamma, lam=cfg.lam))
        if cfg.whiten:
            found["agent.whiten"] = ("true", whitened)
        return found | {"agent.critic.clip": (f"{cfg.critic.clip}", value_loss)}

    def describe(self) -> str:
        """Return the agent's most important numbers for the first line of the log."""
        body, lr = self.cfg.critic.body, self.learner.settings.head_lr
        return f"{super().describe()}, critic with its {body} body, lr {lr:g}"

    def _step_of(
        self, groups: Sequence[Group], batch: Batch, parts: Sequence[Tensor]
    ) -> tuple[PpoStep, Tensor]:
        """Compute advantages and returns from rewards and the values before the step."""
        owned = self._owned(parts)
        own_B = torch.cat(owned)
        ref_logps_BT = self.learner.reference_logps(batch, own_B)
        truncated_B = self._truncated(groups)
        counted_BT = self._counted(batch, truncated_B)
        old_logps_BT, values_BT = self._before(batch, owned)
        values_BT = self._everyones(values_BT, own_B)
        taught_BT = batch.mask_BT & self._valid(groups, truncated_B)[:, None]
        rewards_BT = token_rewards(
            self._rewards(groups, truncated_B), self._kl(batch, ref_logps_BT, own_B), batch.mask_BT
        )
        raw_BT = advantages(
            rewards_BT, values_BT, batch.mask_BT, gamma=self.cfg.gamma, lam=self.cfg.lam
        )
        counts_BT = counted_BT & taught_BT
        advantages_BT = whitened(raw_BT, counts_BT) if self.cfg.whiten else raw_BT * counts_BT
        if self.cfg.whiten and self.term_log.notes:
            mean, std = (x.item() for x in mean_and_std(raw_BT, counts_BT))
            self.term_log.on_the_way({}, {"mean of A over tokens": mean, "std of A": std})
        returns_BT = raw_BT + values_BT
        step = PpoStep(
            batch=batch,
            counted_BT=counted_BT,
            ref_logps_BT=ref_logps_BT,
            old_logps_BT=old_logps_BT,
            advantages_BT=advantages_BT,
            old_values_BT=values_BT,
            returns_BT=returns_BT,
            taught_BT=taught_BT,
            noted=_shown(rewards_BT, values_BT, raw_BT, returns_BT) if self.term_log.notes else {},
        )
        shape = (len(groups), -1)
        mean_PG = per_member(advantages_BT.unflatten(0, shape), counted_BT.unflatten(0, shape))
        return step, mean_PG

    def _before(self, batch: Batch, owned: list[Tensor]) -> tuple[Tensor | None, Tensor]:
        """Return log-probabilities, if needed, and values before the step, both (B, T)."""
        later = self._later(owned)
        if self.critic is not None:
            logps_BT = self.learner.logps(batch, later) if later else None
            return logps_BT, self.critic.scores(batch, owned)[1]
        both = self.learner.scores(batch, owned)  # one pass gives both
        return both[0] if later else None, both[1]

    def _rewards(self, groups: Sequence[Group], truncated_B: Tensor) -> Tensor:
        """Return rewards (B) minus the length penalty; an invalid reward counts as 0."""
        device, dtype = truncated_B.device, self.learner.dtype
        totals = [reward.total for group in groups for reward in group.rewards]
        answers = [c.longest_turn for group in groups for c in group.completions]
        penalty_B = overlong_penalty(
            torch.tensor(answers, device=device), truncated_B, self.max_tokens, self.cfg.overlong
        )
        return torch.tensor(totals, device=device, dtype=dtype) - penalty_B

    def _kl(self, batch: Batch, ref_logps_BT: Tensor | None, own_B: Tensor) -> Tensor | None:
        """Return the KL penalty of each token (B, T); None unless `kl_in=reward`."""
        if ref_logps_BT is None or self.cfg.loss.kl_in != "reward":
            return None
        kl_BT = token_kl(batch.sampled_logps_BT, ref_logps_BT, batch.mask_BT, self.cfg.loss)
        return self._everyones(kl_BT, own_B)

    def _learn(self, step: Step, parts: Sequence[Tensor]) -> dict[str, float]:
        """Update the policy, then a critic with its own body; return the metrics."""
        assert isinstance(step, PpoStep)
        metrics = super()._learn(step, parts)
        if self.critic is not None:
            rows = [step.rows(rows_B) for _ in range(self.cfg.epochs) for rows_B in parts]
            found = self.critic.learn(
                (part.batch, self._value_loss(part, update)) for update, part in enumerate(rows, 1)
            )
            named = {name: found[f"optim/{name}"] for name in ("lr", "grad_norm", "skipped")}
            metrics |= {f"critic/{name}": value for name, value in named.items()}
            metrics |= {name: value for name, value in found.items() if name.startswith("critic/")}
        taught_BT = step.taught_BT
        for name, value_BT in {"value": step.old_values_BT, "return": step.returns_BT}.items():
            total = (value_BT * taught_BT).sum() / taught_BT.sum().clamp(min=1)
            metrics[f"critic/{name}"] = total.item()
        share = explained_variance(step.old_values_BT, step.returns_BT, taught_BT)
        return metrics if share is None else metrics | {"critic/explained_variance": share}

    def _loss_of(self, step: Step, *, on_policy: bool) -> RowLoss:
        """Return the loss of one update; with a shared body the critic's is part of it."""
        assert isinstance(step, PpoStep)
        loss = super()._loss_of(step, on_policy=on_policy)
        if self.critic is not None:
            return loss
        return _added(loss, self._value_loss(step, self.term_log.update))

    def _value_loss(self, step: PpoStep, update: int) -> RowLoss:
        """Return the value loss of one update, a mean over its tokens, for any of its rows."""
        tokens = max(step.taught_BT.sum().item(), 1)
        cfg = self.cfg.critic

        def loss(scored: Scored) -> tuple[Tensor, dict[str, Tensor]]:
            assert scored.values_BT is not None
            place = (scored.rows_B, slice(scored.batch.mask_BT.shape[1]))
            loss_BT, clipped_BT = value_loss(
                scored.values_BT, step.old_values_BT[place], step.returns_BT[place], cfg.clip
            )
            taught_BT = step.taught_BT[place]
            loss_BT = loss_BT * taught_BT
            values = {"critic/loss": loss_BT.detach(), "critic/clipped": clipped_BT * taught_BT}
            self.term_log.add(update, scored, {"value new": scored.values_BT, **values})
            return cfg.coef * loss_BT.sum() / tokens, values

        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the training state without the model's weights, but with the critic's."""
        state = super().state_dict()
        if self.critic is None:
            return state | {"critic": {"weights": value_head_weights(self.policy)}}
        learner = self.critic.state_dict()  # called first, because it may gather the weights
        weights = self.critic.policy.trained_weights()
        return state | {"critic": {"weights": weights, "learner": learner}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the return value of `state_dict`."""
        super().load_state_dict(state)
        weights = state["critic"]["weights"]
        if self.critic is None:
            load_value_head(self.policy, weights)
            return
        critic = self.critic.policy
        assert isinstance(critic, Critic)
        critic.load_weights(weights)
        self.critic.load_state_dict(state["critic"]["learner"])


def _shown(*values_BT: Tensor) -> dict[str, Tensor]:
    """Return rewards, values, advantages before whitening and returns, as `explain` names them."""
    return dict(zip(("reward", "value", "gae", "return"), values_BT, strict=True))


def _added(one: RowLoss, other: RowLoss) -> RowLoss:
    """Return the sum of two losses, with the values of both."""

    def loss(scored: Scored) -> tuple[Tensor, dict[str, Tensor]]:
        (first, values), (second, more) = (each(scored) for each in (one, other))
        return first + second, values | more

    return loss
