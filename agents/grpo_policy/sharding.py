"""The optimiser's step in one process or several, with whole or sharded masters and moments.

GRPO's forward passes differ between processes in number and length, so no pass waits for another
process here. Gradients are summed once per update. Sampling, scoring and saving use whole weights;
`full_sharding` shards the weights as well.
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
    """Trained parameters and optimiser state, whole in every process."""

    def __init__(
        self, policy: Policy, optimizer: torch.optim.Optimizer, accelerator: Accelerator
    ) -> None:
        """Take `optimizer`, which updates the trained parameters of `policy`."""
        self.policy = policy
        self.optimizer = optimizer
        self.accelerator = accelerator

    def idle(self, needed: int) -> int:
        """Return how many extra passes this process must make for the other processes.

        0 here: no pass waits for another process. Called before the first pass.

        Args:
            needed: The passes that this process needs itself.
        """
        return 0

    def exchange(self) -> None:
        """Set the gradients of the trained parameters to the sum over all processes."""
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
        """Scale the gradients down to at most `max_norm`; return the norm before."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return whole(nn.utils.clip_grad_norm_(parameters, max_norm))

    def step(self) -> None:
        """Update the masters, and let the policy compute with them."""
        self.optimizer.step()
        self.policy.masters.publish()

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state of the optimiser, for any number of processes."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the return value of `state_dict`, also from another number of processes."""
        self.optimizer.load_state_dict(dict(state))


class Shards(Replica):
    """Each process has its part of the masters and of their moments, as in ZeRO-1.

    Each of N processes needs 12/N bytes per trained parameter, beside whole weights and their
    gradients: 8 bytes in float32, 6 in bf16. Weights that are not trained are whole.
    """

    _parts: dict[str, DTensor] | None = None
    """Parts of the masters by name; None before the first update: a resume loads whole masters."""
    _loaded: Mapping[int, Mapping[str, Any]] = {}
    """Restored moments, until the parts exist."""

    def _cut(self) -> dict[str, DTensor]:
        """Shard the masters, and drop the whole ones."""
        if self._parts is None:
            count = self.accelerator.num_processes
            mesh = init_device_mesh(self.accelerator.device.type, (count,))
            self._parts = {}
            for name, master in self.policy.masters.trained().items():
                place = [Shard(0) if master.ndim else Replicate()]
                part = distribute_tensor(master.detach(), mesh, place, src_data_rank=None)
                # Cloned: a part may share memory with the whole weight, which goes on computing.
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
        """Update the parts, and gather them into the weights that compute."""
        self.optimizer.step()
        parts = self._cut().items()
        self.policy.masters.publish((name, whole(part.detach())) for name, part in parts)

    def state_dict(self) -> dict[str, Any]:
        """Gather the state with all processes; only the first process keeps it, on the CPU.

        If the policy computes in lower precision, the masters are gathered as well: they are saved.
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
        """Restore a whole state; each process keeps its part once the parts exist."""
        super().load_state_dict({**state, "state": {}})
        self._loaded = state["state"]


def gathered_moments(
    parts: Mapping[int, Mapping[str, Tensor]], *, keep: bool
) -> dict[int, Mapping[str, Tensor]]:
    """Gather an optimiser's moments, by the number of their parameter.

    Args:
        parts: The moments of this process.
        keep: Whether this process keeps the gathered moments, on the CPU.
    """
    moments: dict[int, Mapping[str, Tensor]] = {}
    for i, values in parts.items():
        gathered = {name: whole(value) for name, value in values.items()}
        if keep:
            moments[i] = {name: value.cpu() for name, value in gathered.items()}
    return moments


def _no_gradient(weight: Tensor) -> Tensor:
    """Return zeros in the dtype of summed gradients: other processes may have a gradient."""
    return torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
