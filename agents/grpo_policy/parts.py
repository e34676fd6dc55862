"""Tensors sharded over processes (DTensors), and gathering them.

All processes must gather the same tensors in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from grpo_policy.masters import replaced


def whole(value: Tensor) -> Tensor:
    """Return the whole tensor: gather a sharded one, return any other unchanged."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole value.

    Args:
        value: A whole tensor, the same in all processes.
        like: A tensor sharded in the wanted way. If it is not sharded, or has another shape, the
            value is returned whole.
    """
    value = value.to(like.device)
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def is_first(value: Tensor) -> bool:
    """Return whether this process is the first of those that share a tensor."""
    return not isinstance(value, DTensor) or value.device_mesh.get_rank() == 0


def whole_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and whole value of each parameter, one after another.

    Only one parameter is whole at a time, unless the caller keeps the values.
    """
    for name, p in module.named_parameters():
        yield name, whole(p.detach())


@contextmanager
def held_whole(module: nn.Module) -> Iterator[None]:
    """Within the context the first process holds whole parameters, on the CPU.

    All processes must enter it: the others take part in gathering and keep their own parts. Without
    sharded parameters it changes nothing.
    """
    values: dict[nn.Parameter, nn.Parameter] = {}
    found = zip(module.parameters(), whole_weights(module), strict=True)
    for p, (_, value) in found if _has_parts(module) else ():
        if isinstance(p, DTensor) and is_first(p):
            values[p] = nn.Parameter(value.cpu(), requires_grad=p.requires_grad)
    with replaced(module, values):
        yield


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state with whole tensors; gathered ones are on the CPU.

    Only the first process gets the gathered tensors; the others get those that are not sharded.
    """
    state: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        gathered = whole(value)
        if not isinstance(value, DTensor):
            state[name] = gathered
        elif is_first(value):
            state[name] = gathered.cpu()
    return state


def load_whole(module: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Load a state of whole tensors; each process keeps its parts.

    Args:
        module: Changed in place.
        state: The return value of `whole_state`.
        strict: Whether the state must have exactly the tensors of the module.
    """
    own = module.state_dict()
    cut = {n: part_of(v, own[n]) for n, v in state.items() if isinstance(own.get(n), DTensor)}
    module.load_state_dict({**state, **cut}, strict=strict)


def all_finite(module: nn.Module) -> bool:
    """Return whether all trained parameters are finite; the result is the same in all processes."""
    trained = [p for p in module.parameters() if p.requires_grad]
    local = [p.to_local() if isinstance(p, DTensor) else p for p in trained]
    finite = all(bool(value.isfinite().all()) for value in local)
    if _has_parts(module):
        everywhere = torch.tensor(finite, device=local[0].device, dtype=torch.int32)
        distributed.all_reduce(everywhere, op=distributed.ReduceOp.MIN)
        return bool(everywhere)
    return finite


def _has_parts(module: nn.Module) -> bool:
    return any(isinstance(p, DTensor) for p in module.parameters())
