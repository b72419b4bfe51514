"""Weight matrices whose rows are cut into blocks, each with a scale of its own, in 8 or 4 bits.

ONNX Runtime's `MatMulNBits` multiplies them with activations that it rounds to 8 bits itself, block
by block. One node then does what takes seven with one scale for each row (`onnx_graph.py`), a large
entry spoils its own block only, and 4 bits are precise enough. Up to about four rows it is the
faster way, from about eight on the slower one.

With these sizes of blocks the result of a row is the same to the last bit whatever number of rows
is computed together; with larger ones ONNX Runtime sums an odd row in another order.

Shapes: O outputs and I inputs of a linear layer, G blocks of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from multistride.engines.names import SIZES

SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)
"""How much of the range of a block its 4-bit integers may cover: that with the least error is
taken, since one extreme weight matters less than the step of all others."""


class Blocked(NamedTuple):
    """A weight matrix in blocks: `packed` [O, G, bytes], two 4-bit integers in a byte.

    A weight is `scale` times its integer less the zero point: 128 for 8 bits, `zero` for 4.
    """

    packed: UInt8[np.ndarray, "O G P"]
    scale: Float[np.ndarray, "O G"]
    zero: UInt8[np.ndarray, "O Z"] | None
    bits: int
    inputs: int

    def part(self, first: int, end: int) -> Blocked:
        """Return the outputs from `first` to `end`."""
        zero = None if self.zero is None else self.zero[first:end]
        return self._replace(packed=self.packed[first:end], scale=self.scale[first:end], zero=zero)

    def padded(self, outputs: int) -> Blocked:
        """Return the weights with outputs that are zero appended."""
        more = ((0, outputs - len(self.scale)), (0, 0))
        zero = None if self.zero is None else np.pad(self.zero, more)
        packed = np.pad(self.packed, (*more, (0, 0)))
        return self._replace(packed=packed, scale=np.pad(self.scale, more), zero=zero)


def blocked(weight: Float[Tensor, "O I"], bits: int) -> Blocked:
    """Round a weight matrix in blocks."""
    size = SIZES[bits]
    outputs, inputs = weight.shape
    matrix = torch.nn.functional.pad(weight.detach().float().cpu(), (0, -inputs % size))
    groups = matrix.view(outputs, -1, size)
    if bits == 8:
        scale = groups.abs().amax(-1).clamp_(min=1e-12) / 127
        packed = (groups / scale[..., None]).round_().add_(128).to(torch.uint8)
        return Blocked(packed.numpy(), scale.numpy(), None, bits, inputs)
    scale, zero = _best_range(groups)
    packed = _pairs(_in_4_bits(groups, scale, zero).to(torch.uint8))
    zeros = torch.nn.functional.pad(zero.to(torch.uint8), (0, zero.shape[1] % 2))
    return Blocked(packed.numpy(), scale.numpy(), _pairs(zeros).numpy(), bits, inputs)


def _pairs(integers: Tensor) -> Tensor:
    """Return neighbours in one byte, the first in its lower half."""
    return integers[..., 0::2] | (integers[..., 1::2] << 4)


def _in_4_bits(groups: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return (groups / scale[..., None]).round_().add_(zero[..., None]).clamp_(0, 15)


def _best_range(groups: Float[Tensor, "O G S"]) -> tuple[Tensor, Tensor]:
    """Return scale and zero point [O, G] of the share of `SHARES` with the least square error."""
    lowest, highest = groups.amin(-1).clamp_(max=0), groups.amax(-1).clamp_(min=0)
    least = torch.full_like(lowest, torch.inf)
    scale, zero = torch.ones_like(lowest), torch.zeros_like(lowest)
    for share in SHARES:
        step = ((highest - lowest) * share).clamp_(min=1e-12) / 15
        middle = (-lowest * share / step).round_().clamp_(0, 15)
        restored = _in_4_bits(groups, step, middle).sub_(middle[..., None]).mul_(step[..., None])
        error = restored.sub_(groups).square_().sum(-1)
        better = error < least
        least = torch.where(better, error, least)
        scale, zero = torch.where(better, step, scale), torch.where(better, middle, zero)
    return scale, zero
