"""Linear layers that are made of others, as graphs and native kernels read them.

Shapes: O outputs and I inputs.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn


def divided(layer: nn.Linear, divisors: Float[np.ndarray, "O"]) -> nn.Linear:
    """Return a layer with each output divided."""
    divisor = torch.from_numpy(divisors).to(layer.weight)
    bias = None if layer.bias is None else layer.bias / divisor
    return linear_of(layer.weight / divisor[:, None], bias)


def side_by_side(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """Return one layer with the outputs of both, one after the other."""
    bias = None if first.bias is None else torch.cat([first.bias, second.bias])
    return linear_of(torch.cat([first.weight, second.weight]), bias)


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return a layer of these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
