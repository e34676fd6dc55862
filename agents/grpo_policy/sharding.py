"""Where a policy's weights and its optimiser's moments are: whole in each process, or in shards.

GRPO's forward passes differ from process to process in number and length, so none of them may wait
for another process. Shards are therefore gathered once an update: all that samples, scores or saves
finds whole weights, and only the optimiser's step sees the shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

import torch
from accelerate import (
    Accelerator,
    DistributedType,
    FullyShardedDataParallelPlugin,
    PartialState,
)
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo_envs.runtime import launch
from grpo_policy.policy import Policy


class Replica:
    """A policy and its optimiser, whole in every process: one alone, or several with DDP."""

    def __init__(
        self, policy: Policy, optimizer: torch.optim.Optimizer, accelerator: Accelerator
    ) -> None:
        """Take `optimizer`, which changes what `policy` trains; nothing is prepared yet."""
        self.policy = policy
        self.optimizer = optimizer
        self.accelerator = accelerator

    @cached_property
    def scorer(self) -> nn.Module:
        """The policy as Accelerate prepares it: from its first use, which all processes share."""
        return cast("nn.Module", self.accelerator.prepare(self.policy))

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Let the policy's parameters be those that the optimiser changes, for a while."""
        yield

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradients down to a norm at most; return what it was. Call while `stepping`."""
        parameters = self.policy.trained_parameters()
        return cast("Tensor", self.accelerator.clip_grad_norm_(parameters, max_norm))

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state of the optimiser, whatever the number of processes."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, here or with another number of processes."""
        self.optimizer.load_state_dict(dict(state))


class Shards(Replica):
    """Each process has its part of the weights that are stepped and of their moments (FSDP2).

    Of N processes each needs 8 + 12/N bytes a trained parameter, in place of 16: weights and
    gradients are whole in all of them. What is not trained is whole, and there once.
    """

    _loaded: Mapping[int, Mapping[str, Any]] = {}
    """Moments to go on with, until there are shards to put them into."""

    @cached_property
    def scorer(self) -> nn.Module:
        """The policy, sharded by Accelerate; its weights are whole again when this returns."""
        plugin = self.accelerator.state.fsdp_plugin
        modules = list(self.policy.modules())
        layers = {type(m).__name__ for m in modules if isinstance(m, GradientCheckpointingLayer)}
        plugin.transformer_cls_names_to_wrap = sorted(layers)
        plugin.ignored_modules = [
            m for m in modules if not any(p.requires_grad for p in m.parameters())
        ]
        scorer, _ = self.accelerator.prepare(self.policy, self.optimizer)
        scorer.set_reshard_after_backward(False)
        self._gather()
        for module in modules:  # FSDP would put the shards into a state_dict, and leave them there
            module._state_dict_pre_hooks.clear()
        return cast("nn.Module", scorer)

    def _sharded(self) -> list[FSDPModule]:
        return [module for module in self.policy.modules() if isinstance(module, FSDPModule)]

    def _gather(self) -> None:
        for module in self._sharded():
            module.unshard()

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Let the policy's parameters be the shards for a while; then gather them."""
        for module in self._sharded():
            module.reshard()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for i, values in self._loaded.items():
            parameter = parameters[i]
            self.optimizer.state[parameter] = {k: _part(v, parameter) for k, v in values.items()}
        self._loaded = {}
        yield
        self._gather()

    def clip(self, max_norm: float) -> Tensor:
        """Do as a replica does; the norm is that of all shards."""
        return _whole(super().clip(max_norm))

    def state_dict(self) -> dict[str, Any]:
        """Gather the state in all processes: in the first alone the moments stay, on the CPU."""
        state = super().state_dict()
        moments: dict[int, Mapping[str, Any]] = {}
        for i, values in state["state"].items():
            gathered = {name: _whole(value) for name, value in values.items()}
            if self.accelerator.is_main_process:
                moments[i] = {name: value.cpu() for name, value in gathered.items()}
        return state | {"state": moments | dict(self._loaded)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a whole state; each process keeps its part once there are shards."""
        super().load_state_dict({**state, "state": {}})
        self._loaded = state["state"]


def replica_of(
    policy: Policy, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> Replica:
    """Return what the accelerator was made for."""
    kind = Shards if accelerator.distributed_type == DistributedType.FSDP else Replica
    return kind(policy, optimizer, accelerator)


def sharding_accelerator(**settings: Any) -> Accelerator:
    """Return an Accelerator that shards where `accelerate launch` was asked to use FSDP.

    All other settings of FSDP are chosen here; those of the launcher have no effect.
    """
    if not launch.shards():
        return Accelerator(**settings)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=False,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=[],  # known once there is a model
        mixed_precision_policy=MixedPrecisionPolicy(),  # autocast does it, as without shards
        cpu_ram_efficient_loading=False,  # each process loads the model itself
    )
    accelerator = Accelerator(fsdp_plugin=plugin, **settings)
    if accelerator.distributed_type == DistributedType.MULTI_CPU:  # Accelerate leaves these out
        PartialState().distributed_type = DistributedType.FSDP
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    return accelerator


def _whole(value: Tensor) -> Tensor:
    """Return the tensor of which each process has a part; any other is whole already."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _part(value: Tensor, parameter: DTensor) -> Tensor:
    """Return this process's part of a moment; a step count is whole in all of them."""
    value = value.to(parameter.device)
    if value.shape != parameter.shape:
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value, mesh, placements, src_data_rank=None)
