"""The loss terms of each token, for `grpo_envs.explain`: as computed, without rounding."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from grpo_agent.losses import LossInputs
from grpo_agent.losses.aggregation import AGGREGATES
from grpo_agent.losses.corrections import CORRECTIONS
from grpo_agent.losses.kl import KLS
from grpo_agent.losses.ratios import RATIOS
from grpo_policy.updates import Scored

if TYPE_CHECKING:
    from grpo_agent.policy_gradient import PolicyGradientAgent

_INTERNAL = {"policy/correction_square"}


class TermLog:
    """Keeps the terms of `agent.log_tokens` groups of a step, in each of its updates.

    The groups are evenly spaced over the step, so that later minibatches have some of them.
    """

    def __init__(self, agent: PolicyGradientAgent) -> None:
        self._agent = agent
        self._noted: set[int] = set()
        self._rows: dict[tuple[int, int, int], dict[str, Any]] = {}
        """By group, member and update. An update that is repeated after it ran out of memory
        replaces its rows."""
        self._compared: list[list[float]] = []
        self._of_members: dict[str, list[float]] = {}
        self._of_step: dict[str, float] = {}
        self._size = 1
        self.update = 0
        """The number of the update that began last, from 1."""

    @property
    def formulas(self) -> dict[str, str]:
        """The formula of each choice with its source, by key: from the function's docstring."""
        cfg = self._agent.cfg.loss
        named: dict[str, tuple[str, Callable[..., Any]]] = {
            "agent.loss.ratio": (cfg.ratio, RATIOS[cfg.ratio]),
            "agent.loss.objective": (cfg.objective, self._agent.objective.function),
            "agent.loss.aggregate": (cfg.aggregate, AGGREGATES[cfg.aggregate]),
        }
        named = {**self._agent.formulas(), **named}
        if cfg.beta:
            named["agent.loss.kl"] = (cfg.kl, KLS[cfg.kl])
        if cfg.correction in CORRECTIONS:
            named["agent.loss.correction"] = (cfg.correction, CORRECTIONS[cfg.correction])
        return {key: f"{name}: {_about(function)}" for key, (name, function) in named.items()}

    def begin(self, groups: int, group_size: int) -> None:
        """Begin a step of `groups` groups of `group_size` members; forget the step before."""
        count = min(self._agent.cfg.log_tokens, groups)
        self._noted = {number * groups // count for number in range(count)}
        self._rows, self._compared = {}, []
        self._of_members, self._of_step = {}, {}
        self._size, self.update = group_size, 0

    def compared(self, rewards_BK: Tensor) -> None:
        """Take the rewards of turns (B, K), after the length and KL penalties are subtracted."""
        if self._noted:
            self._compared = rewards_BK.tolist()

    @property
    def notes(self) -> bool:
        """Whether anything is noted of this step."""
        return bool(self._noted)

    def on_the_way(self, of_members: Mapping[str, Tensor], of_step: Mapping[str, float]) -> None:
        """Take what the advantages of a step are made of.

        Args:
            of_members: A number for each completion of the step (B), by what it is.
            of_step: A number of the whole step, by what it is.
        """
        self._of_members = {name: value.tolist() for name, value in of_members.items()}
        self._of_step = dict(of_step)

    def next_update(self) -> int:
        """Return the number of the update that begins, from 1."""
        self.update += 1
        return self.update

    def take(
        self, update: int, scored: Scored, x: LossInputs, values: Mapping[str, Tensor]
    ) -> None:
        """Take the terms of some rows of an update.

        Args:
            update: The number of the update, from 1.
            scored: The rows; an update has whole groups, one after another.
            x: The inputs of the loss.
            values: The values of the loss at each token (B, T), by the name of the metric, and the
                noted ones.
        """
        columns = {
            "old": x.old_logps_BT,
            "new": x.logps_BT,
            "sampled": x.sampled_logps_BT,
            "reference": x.ref_logps_BT,
            "ratio": RATIOS[self._agent.cfg.loss.ratio](x),
            "advantage": x.advantages_BT,
            "weight": x.weights_BT,
            "apart": x.singled_BT,
            "fork": x.forks_BT,
            **{name: value for name, value in values.items() if name not in _INTERNAL},
        }
        self.add(update, scored, {n: value for n, value in columns.items() if value is not None})

    def add(self, update: int, scored: Scored, terms: Mapping[str, Tensor]) -> None:
        """Take more terms (B, T) of some rows of an update, by name."""
        if not self._noted:
            return
        groups, rows = scored.batch.groups_B.tolist(), scored.rows_B.tolist()
        for place, group in enumerate(groups):
            if group not in self._noted:
                continue
            mask_T = scored.batch.mask_BT[place]
            tokens = scored.batch.token_ids_BT[place][mask_T].tolist()
            new = {"tokens": [self._agent.policy.chat.text((token,)) for token in tokens]}
            row = self._rows.setdefault(
                (group, rows[place] % self._size, update), {**new, "terms": {}}
            )
            for name, value in terms.items():
                row["terms"][name] = value.detach()[place][mask_T].to(torch.float64).tolist()

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the last step from all processes, by group, member and update."""
        if not self._noted:
            return []
        own = [*self._rows.items()]
        found = own if self._agent.accelerator.num_processes == 1 else gather_object(own)
        noted = []
        for (group, member, update), row in sorted(found, key=lambda item: item[0]):
            key: dict[str, Any] = {"group": group, "member": member, "update": update}
            place = group * self._size + member
            if self._compared:
                key["compared"] = self._compared[place]
            if self._of_members:
                key["of_member"] = {name: x[place] for name, x in self._of_members.items()}
            if self._of_step:
                key["of_step"] = self._of_step
            noted.append({**key, **row})
        return noted


def _about(function: Callable[..., Any]) -> str:
    """Return what a function returns, the source and the options, on one line.

    The first paragraph of the docstring has the formula. If the next one begins with the source in
    parentheses, the source follows the formula.
    """
    options = ""
    if isinstance(function, partial):
        options = ", ".join(f"{name}={value}" for name, value in function.keywords.items())
        function = function.func
    text = inspect.getdoc(function) or "the function has no docstring"
    formula, _, more = text.removeprefix("Return ").partition("\n\n")
    source = re.match(r"\([^()]+\)", more)
    words = [*formula.split(), *(source[0].split() if source else [])]
    return " ".join(words) + (f" [{options}]" if options else "")
