"""Weights, gradients and optimiser state divided among the processes of a run (fully sharded data
parallelism).

Source: Rajbhandari et al. 2020, arXiv 1910.02054 (ZeRO, stage 3), by
`torch.distributed.fsdp.fully_shard`. The model is one unit: its weights are gathered for a pass and
let go after it; what is spared for good is optimiser state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def divide(module: nn.Module, device: torch.device, processes: int) -> None:
    """Leave each process its part of every parameter of `module`, in place. All processes must call
    it.
    """
    fully_shard(module, mesh=init_device_mesh(device.type, (processes,)))


def whole(value: Any) -> Any:
    """Return nested dictionaries, lists and tensors with divided tensors whole, on the CPU.

    All processes must call it.
    """
    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    if isinstance(value, dict):
        return {key: whole(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [whole(entry) for entry in value]
    return value


def divided_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser state that `whole` put together, divided as the parameters of `optimizer`
    are.
    """
    parameters = dict(enumerate(_parameters(optimizer)))
    entries = {
        index: {name: _like(entry, parameters[index]) for name, entry in entries.items()}
        for index, entries in state["state"].items()
    }
    return {**state, "state": entries}


def _like(entry: Any, parameter: nn.Parameter) -> Any:
    if not (isinstance(parameter, DTensor) and isinstance(entry, Tensor) and entry.dim()):
        return entry
    return distribute_tensor(
        entry.to(parameter.device), parameter.device_mesh, parameter.placements
    )


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]
