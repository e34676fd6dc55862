"""Sharding of optimiser state and weights over several processes (`trainer.shard`)."""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import (
    Accelerator,
    DistributedType,
    FullyShardedDataParallelPlugin,
    PartialState,
)

from grpo_envs.runtime import launch
from grpo_policy.full_sharding import FullShards, share_out
from grpo_policy.policy import Policy
from grpo_policy.sharding import Replica, Shards

_BY_LAUNCHER = "ACCELERATE_USE_FSDP"


def placed(policy: Policy, accelerator: Accelerator) -> Policy:
    """Put a policy on the accelerator's device: whole, or this process's part of it.

    Raises:
        ConfigError: the policy cannot be sharded; one line that says why.
    """
    if _kind(accelerator) is FullShards:
        return share_out(policy, accelerator)
    return policy.to(accelerator.device)


def replica_of(
    policy: Policy, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> Replica:
    """Return the replica for the accelerator's kind of sharding, for a placed policy."""
    return _kind(accelerator)(policy, optimizer, accelerator)


def _kind(accelerator: Accelerator) -> type[Replica]:
    if accelerator.distributed_type != DistributedType.FSDP:
        return Replica
    return FullShards if accelerator.state.fsdp_plugin.reshard_after_forward else Shards


def sharding_accelerator(shard: str, **settings: Any) -> Accelerator:
    """Return an Accelerator that is set up for `trainer.shard`.

    All settings of FSDP are chosen here; those of the launcher have no effect.

    Args:
        shard: `trainer.shard`.
        settings: Keyword arguments of the Accelerator.
    """
    if shard == "auto" and not launch.shards():
        return Accelerator(**settings)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, cpu_ram_efficient_loading=False, reshard_after_forward=shard == "full"
    )
    before = os.environ.get(_BY_LAUNCHER)
    accelerator = Accelerator(fsdp_plugin=plugin, **settings)
    if before is None:  # Accelerate sets it, and later runs of this process would be sharded, too
        del os.environ[_BY_LAUNCHER]
    if accelerator.distributed_type == DistributedType.MULTI_CPU:  # Accelerate has no FSDP on CPUs
        PartialState().distributed_type = DistributedType.FSDP
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    return accelerator
