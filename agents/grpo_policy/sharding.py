"""The optimiser's step in one process or several: masters and moments whole in each, or in shards.

GRPO's forward passes differ from process to process in number and length, so none of them waits for
another process here. Gradients are added up once an update; all that samples, scores or saves finds
whole weights. `full_sharding` has what cuts the weights, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from grpo_policy.parts import part_of, whole
from grpo_policy.policy import Policy


class Replica:
    """What the optimiser changes, whole in every process."""

    def __init__(
        self, policy: Policy, optimizer: torch.optim.Optimizer, accelerator: Accelerator
    ) -> None:
        """Take `optimizer`, which changes what `policy` trains; nothing is prepared yet."""
        self.policy = policy
        self.optimizer = optimizer
        self.accelerator = accelerator

    def idle(self, needed: int) -> int:
        """Return how many passes through the model this process makes for others alone.

        None here, as no pass waits for another process. Asked before the first pass.

        Args:
            needed: The passes that it makes for itself.
        """
        return 0

    def exchange(self) -> None:
        """Give what the optimiser changes the sum of all processes' gradients."""
        trained = self.policy.masters.trained()
        for name, gradient in self._summed().items():
            trained[name].grad = gradient

    def _summed(self) -> dict[str, Tensor | None]:
        gradients = self.policy.masters.take_gradients()
        if self.accelerator.num_processes == 1:
            return gradients
        trained = self.policy.masters.trained()
        whole = {
            name: _no_gradient(trained[name]) if gradient is None else gradient
            for name, gradient in gradients.items()
        }
        sent = [distributed.all_reduce(value, async_op=True) for value in whole.values()]
        for each in sent:
            each.wait()
        return dict(whole)

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradients down to a norm at most; return what it was."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return whole(nn.utils.clip_grad_norm_(parameters, max_norm))

    def step(self) -> None:
        """Let the optimiser change the masters, and the policy compute with them."""
        self.optimizer.step()
        self.policy.masters.publish()

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state of the optimiser, whatever the number of processes."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, here or with another number of processes."""
        self.optimizer.load_state_dict(dict(state))


class Shards(Replica):
    """Each process has its part of the masters and of their moments, as with ZeRO-1.

    Of N processes each needs, a trained parameter, 12/N bytes beside the whole weights that compute
    and their gradients: 8 bytes in float32, 6 in bf16. What is not trained is whole.
    """

    _parts: dict[str, DTensor] | None = None
    """By name; there are none before the first update, as a resume changes the whole masters."""
    _loaded: Mapping[int, Mapping[str, Any]] = {}
    """Moments to go on with, until there are parts to put them into."""

    def _cut(self) -> dict[str, DTensor]:
        """Cut the masters into parts, and keep no whole ones."""
        if self._parts is None:
            count = self.accelerator.num_processes
            mesh = init_device_mesh(self.accelerator.device.type, (count,))
            self._parts = {}
            for name, master in self.policy.masters.trained().items():
                place = [Shard(0) if master.ndim else Replicate()]
                part = distribute_tensor(master.detach(), mesh, place, src_data_rank=None)
                # A part may share memory with the whole, which goes on computing.
                self._parts[name] = nn.Parameter(part.clone())  # type: ignore[assignment]
            self.policy.masters.values.clear()
            (group,) = self.optimizer.param_groups
            group["params"] = list(self._parts.values())
            for i, values in self._loaded.items():
                part = group["params"][i]
                self.optimizer.state[part] = {k: part_of(v, part) for k, v in values.items()}
            self._loaded = {}
        return self._parts

    def exchange(self) -> None:
        """Give each part of the masters its part of the sum of all processes' gradients."""
        gradients = self._summed()
        for name, part in self._cut().items():
            gradient = gradients[name]
            part.grad = None if gradient is None else part_of(gradient, part)

    def step(self) -> None:
        """Let the optimiser change the parts; gather each to compute with."""
        self.optimizer.step()
        parts = self._cut().items()
        self.policy.masters.publish((name, whole(part.detach())) for name, part in parts)

    def state_dict(self) -> dict[str, Any]:
        """Gather the state in all processes: in the first alone it stays, on the CPU.

        The masters, too, where the policy computes in less precision: they are what is saved.
        """
        state, first = super().state_dict(), self.accelerator.is_main_process
        moments = gathered_moments(state["state"], keep=first)
        computing = self.policy.masters.computing()
        for name, part in (self._parts or {}).items():
            if part.dtype != computing[name].dtype:
                master = whole(part.detach())
                if first:
                    self.policy.masters.values[name] = nn.Parameter(master.cpu())
        return state | {"state": moments | dict(self._loaded)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a whole state; each process keeps its part once there are any."""
        super().load_state_dict({**state, "state": {}})
        self._loaded = state["state"]


def gathered_moments(
    parts: Mapping[int, Mapping[str, Tensor]], *, keep: bool
) -> dict[int, Mapping[str, Tensor]]:
    """Gather an optimiser's moments, by the number of their parameter.

    Args:
        parts: Those of this process.
        keep: Whether this process keeps them, on the CPU.
    """
    moments: dict[int, Mapping[str, Tensor]] = {}
    for i, values in parts.items():
        gathered = {name: whole(value) for name, value in values.items()}
        if keep:
            moments[i] = {name: value.cpu() for name, value in gathered.items()}
    return moments


def _no_gradient(weight: Tensor) -> Tensor:
    """Return zeros in the dtype that gradients are summed in: the others may have some."""
    return torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
