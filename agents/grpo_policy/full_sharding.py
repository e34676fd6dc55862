"""Weights in shards: each is whole for as long as its layer computes.

PyTorch's FSDP 2 (`fully_shard`) gathers a layer before its forward and its backward pass, and adds
up its gradients over the processes right behind the latter (ZeRO-3, arXiv 1910.02054). So every
pass through the model is one of all processes, and all of them make the same number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo_envs.errors import ConfigError
from grpo_policy.parts import part_of
from grpo_policy.policy import Policy
from grpo_policy.sharding import Replica, gathered_moments

_KEY = "trainer.shard=full"


class FullShards(Replica):
    """Each process has its part of weights, gradients and moments, and samples with none of them.

    Of N processes each needs 16/N bytes a parameter, and what the layer that computes takes whole:
    twice as much as it has weights in what computes, for their gradients.
    """

    def idle(self, needed: int) -> int:
        """Return how many passes are missing to those of the process that makes the most."""
        most = torch.tensor(needed, device=self.accelerator.device)
        distributed.all_reduce(most, op=distributed.ReduceOp.MAX)
        return int(most) - needed

    def exchange(self) -> None:
        """Do nothing: each backward pass has added up its gradients over the processes."""

    def state_dict(self) -> dict[str, Any]:
        """Gather the state in all processes: in the first alone it stays, on the CPU."""
        state, first = super().state_dict(), self.accelerator.is_main_process
        return state | {"state": gathered_moments(state["state"], keep=first)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a whole state; each process keeps its part."""
        super().load_state_dict({**state, "state": {}})
        (group,) = self.optimizer.param_groups
        for i, values in state["state"].items():
            part = group["params"][i]
            self.optimizer.state[part] = {k: part_of(v, part) for k, v in values.items()}


def share_out(policy: Policy, accelerator: Accelerator) -> Policy:
    """Cut a policy's weights into parts, on the accelerator's device, a layer at a time.

    Args:
        policy: Changed in place. It goes on computing in what it computes in; where that is bf16,
            the parts are of its masters, in float32.
        accelerator: Device and processes.

    Raises:
        ConfigError: it cannot be; one line that says why.
    """
    require_cuttable(policy)
    computes = policy.dtype
    policy.masters.take_over()
    held = next(policy.model.parameters()).dtype
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    mixed = computes != held
    precision = MixedPrecisionPolicy(
        param_dtype=computes if mixed else None,
        reduce_dtype=torch.float32 if mixed else None,
        cast_forward_inputs=False,
    )
    for module in (*outer_layers(policy), policy):
        # Also what is outside of the layers is in parts between two passes: it is read, and saved.
        fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
        part: FSDPModule = module  # type: ignore[assignment]
        part.set_gradient_divide_factor(1.0)  # a sum: the loss is divided by the whole update's
        part.set_force_sum_reduction_for_comms(True)
        part.set_reduce_scatter_unused_params(True)
    policy.computes_in = computes
    return policy


def outer_layers(policy: Policy) -> list[nn.Module]:
    """Return the layers that are gathered one by one; none is within another."""
    found: list[nn.Module] = []
    inner: set[nn.Module] = set()
    for module in policy.model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module not in inner:
            found.append(module)
            inner.update(module.modules())
    return found


def require_cuttable(policy: Policy) -> None:
    """Refuse a policy whose weights cannot be cut into parts.

    Raises:
        ConfigError: one line that says why.
    """
    if policy.has_adapters:
        raise ConfigError(f"{_KEY} with adapters (model.lora.rank). Allowed: trainer.shard=auto.")
    weights = list(policy.model.named_parameters())
    dtypes = {str(p.dtype).removeprefix("torch.") for _, p in weights}
    own = type(policy.model).__name__
    if policy.dtype == torch.float16 or len(dtypes) > 1:
        raise ConfigError(
            f"{_KEY}: {own} computes in {', '.join(sorted(dtypes))}. Allowed: all of it in bf16 "
            "or in fp32 (trainer.precision), or trainer.shard=optimizer."
        )
    scalar = next((name for name, p in weights if not p.ndim), None)
    layers = outer_layers(policy)
    inner = {module for layer in layers for module in layer.modules()}
    rest = [module for module in policy.model.modules() if module not in inner]
    groups = [set(layer.parameters()) for layer in layers]
    groups.append({p for module in rest for p in module.parameters(recurse=False)})
    uses = Counter(p for group in groups for p in group)
    shared = next((name for name, p in weights if uses[p] > 1), None)
    if scalar or shared:
        why = f"{scalar} is a single number" if scalar else f"several layers share {shared}"
        raise ConfigError(f"{_KEY}: {own} cannot be cut ({why}). Allowed: trainer.shard=optimizer.")
