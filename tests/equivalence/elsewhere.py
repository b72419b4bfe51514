"""A GPU engine for machines without a GPU: its logits stand for tensors of another device.

Tensors of the class `There` behave as those of a device: an operation on one of them and on a
tensor of the CPU raises, unless that one is a single number or an index.
"""

import torch
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode

from multistride.engines.gpu.engine import GpuStepModel
from multistride.model.markov import MarkovHead

DEVICE = torch.device("cuda")
INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)


class There(torch.Tensor):
    """A tensor that is taken to be on the device."""


def here(tensor):
    """The same tensor, taken to be on the CPU."""
    return tensor.as_subclass(torch.Tensor)


def there(tensor):
    """The same tensor, taken to be on the device."""
    return tensor.as_subclass(There)


def tensors(value):
    """All tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return (
        [found for each in value for found in tensors(each)]
        if isinstance(value, list | tuple)
        else []
    )


def mapped(value, change):
    """Nested containers with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: mapped(each, change) for name, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(each, change) for each in value))
    if isinstance(value, list | tuple):
        return type(value)(mapped(each, change) for each in value)
    return value


class Elsewhere(TorchFunctionMode):
    """Where tensors of two devices may not meet."""

    def __torch_function__(self, function, types, arguments=(), named=None):
        named = dict(named or {})
        owner = getattr(getattr(function, "__self__", None), "__name__", "")
        if getattr(function, "__name__", "") == "__get__" and owner == "device":
            return DEVICE if isinstance(arguments[0], There) else torch.device("cpu")
        if function is torch.Tensor.cpu:
            return here(arguments[0])
        if function is torch.Tensor.to and isinstance(arguments[1], torch.device):
            return (here if arguments[1].type == "cpu" else there)(arguments[0])
        wanted = named.pop("device", None)
        given = tensors([arguments, named])
        apart = any(isinstance(each, There) for each in given)
        if apart and function not in INDEXING:
            for each in given:
                assert isinstance(each, There) or each.dim() == 0, (
                    f"{function} has tensors of two devices"
                )
        with torch._C.DisableTorchFunctionSubclass():
            found = function(*mapped(list(arguments), here), **mapped(named, here))
        made_there = isinstance(wanted, torch.device) and wanted.type == DEVICE.type
        return mapped(found, there) if apart or made_there else found


class ThereHead(MarkovHead):
    """A Markov head with weights that are there."""

    def forward(self, previous):
        """Return what is added to the logits, there too."""
        weights = there(self.previous.weight.detach()), there(self.following.detach())
        return embedding(previous, weights[0]) @ weights[1].T


class ElsewhereEngine(GpuStepModel):
    """The GPU engine on the CPU, with logits and a Markov head that are taken to be elsewhere."""

    def __init__(self, model):
        with torch._C.DisableTorchFunction():
            super().__init__(model, torch.float32)
            self._head = ThereHead(model.config)
            self._head.load_state_dict(self._markov.state_dict())

    @property
    def markov(self):
        """The head; its weights are there."""
        return self._head

    def start(self, source, lengths):
        """Compute as on the CPU."""
        with torch._C.DisableTorchFunction():
            return super().start(source, lengths)

    def step(self, slots, memory):
        """Return logits that are there."""
        with torch._C.DisableTorchFunction():
            return there(super().step(slots, memory))

    def step_greedy(self, slots, memory, size):
        """Compute as on the CPU: what it returns is on the host."""
        with torch._C.DisableTorchFunction():
            return super().step_greedy(slots, memory, size)
