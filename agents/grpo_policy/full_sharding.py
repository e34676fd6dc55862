"""Weights in shards: the weights of a layer are whole only while the layer computes.

PyTorch's FSDP 2 (`fully_shard`) gathers a layer before its forward and its backward pass, and sums
its gradients over the processes right after its backward pass (ZeRO-3, arXiv 1910.02054). All
processes take part in every pass through the model, so all must make the same number of passes.
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
    """Each process holds its part of weights, gradients and moments; another engine samples.

    Each of N processes needs 16/N bytes per parameter, and the whole weights and gradients of the
    layer that computes.
    """

    def idle(self, needed: int) -> int:
        """Return how many passes this process makes fewer than the one with the most passes."""
        most = torch.tensor(needed, device=self.accelerator.device)
        distributed.all_reduce(most, op=distributed.ReduceOp.MAX)
        return int(most) - needed

    def exchange(self) -> None:
        """Do nothing: each backward pass has summed its gradients over the processes."""

    def state_dict(self) -> dict[str, Any]:
        """Gather the state with all processes; only the first process keeps it, on the CPU."""
        state, first = super().state_dict(), self.accelerator.is_main_process
        return state | {"state": gathered_moments(state["state"], keep=first)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore from a whole state; each process keeps its part."""
        super().load_state_dict({**state, "state": {}})
        (group,) = self.optimizer.param_groups
        for i, values in state["state"].items():
            part = group["params"][i]
            self.optimizer.state[part] = {k: part_of(v, part) for k, v in values.items()}


def share_out(policy: Policy, accelerator: Accelerator) -> Policy:
    """Shard a policy's weights on the accelerator's device, one layer at a time.

    Args:
        policy: Changed in place. It computes in the same dtype as before; if that is bf16, the
            shards hold its float32 masters.
        accelerator: Device and processes.

    Raises:
        ConfigError: the policy cannot be sharded; one line that says why.
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
        # Weights outside of the layers are resharded after a pass, too: they are read and saved.
        fully_shard(module, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
        part: FSDPModule = module  # type: ignore[assignment]
        part.set_gradient_divide_factor(1.0)  # a sum: the loss has the weights of the whole update
        part.set_force_sum_reduction_for_comms(True)
        part.set_reduce_scatter_unused_params(True)
    policy.computes_in = computes
    return policy


def outer_layers(policy: Policy) -> list[nn.Module]:
    """Return the layers that are gathered one at a time; none contains another."""
    found: list[nn.Module] = []
    inner: set[nn.Module] = set()
    for module in policy.model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module not in inner:
            found.append(module)
            inner.update(module.modules())
    return found


def require_cuttable(policy: Policy) -> None:
    """Refuse a policy whose weights cannot be sharded.

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
