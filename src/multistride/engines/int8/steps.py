"""Weight matrices that came in 4 bits: a block of 32 weights takes 16 evenly spaced values at most.

Files of the kinds Q4_0, Q4_1 and Q4_K of llama.cpp hold such matrices (`docs/convert.md`).
Converted, their weights are floats that can still be told apart, and need not be rounded again:
kept in 4 bits they are exact, but for the 16 bits of steps and least weights, and take three fifths
of the memory of 8 bits. A pass of few slots waits for its weights, so it is faster.

Shapes: O outputs and I inputs of a linear layer, G blocks of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from multistride.engines.names import SIZES

BLOCK = SIZES[4]
"""Inputs whose weights share a step."""

MOST = 15
"""The largest integer."""

NEAR = 1 / 32
"""How far a weight may be from what it is told apart as, in steps. Rounding to 8 bits moves it
as far: by 1/34 of a step where the largest weight of a block is 7.5 steps from zero."""

HALF = 2**-11
"""How far it may be besides, as a part of itself: what 16 bits cannot hold."""

FEW = 64
"""Outputs that are tried first: most matrices did not come in 4 bits."""


class Stepped(NamedTuple):
    """A weight matrix in 4 bits: a weight is its integer times `step`, plus `least`."""

    integers: UInt8[np.ndarray, "O I"]
    step: Float[np.ndarray, "O G"]
    least: Float[np.ndarray, "O G"]


def stepped(weight: Float[Tensor, "O I"]) -> Stepped | None:
    """Return a matrix in 4 bits; None if it did not come in 4 bits."""
    if weight.shape[1] % BLOCK:
        return None
    matrix = weight.detach().float().cpu()
    return None if _in_steps(matrix[:FEW]) is None else _in_steps(matrix)


def _in_steps(matrix: Float[Tensor, "O I"]) -> Stepped | None:
    outputs = len(matrix)
    blocks = matrix.reshape(outputs, -1, BLOCK)
    least, highest = blocks.amin(-1), blocks.amax(-1)
    step, found = torch.zeros_like(least), least == highest
    for most in range(MOST, 0, -1):
        tried = (highest - least) / most
        away = (blocks - least[..., None]) / tried[..., None]
        fits = ~found & ((away - away.round()).abs().amax(-1) < NEAR)
        step, found = torch.where(fits, tried, step), found | fits
        if bool(found.all()):
            break
    least, step = least.half(), step.half()
    shared = step.float()[..., None]
    integers = ((blocks - least.float()[..., None]) / shared).nan_to_num_().round_().clamp_(0, MOST)
    error = (integers * shared + least.float()[..., None] - blocks).abs()
    if not bool(found.all() and (error <= NEAR * shared + HALF * blocks.abs()).all()):
        return None
    whole = integers.to(torch.uint8).view(outputs, -1)
    return Stepped(whole.numpy(), step.numpy(), least.numpy())
