"""Matrices with one scale for each output, and Markov heads, as the native kernels read them.

They are in the order in which `choice.h` multiplies: panels of 64 outputs, the last one filled up
with zeros, in each the inputs by fours. What a zero point of the inputs adds to every sum of an
output is known beforehand and joins its bias.

Shapes: O outputs and I inputs of a matrix, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from multistride.engines.int8.native.library import Arrays
from multistride.engines.int8.native.stored import in_panels, named
from multistride.engines.int8.onnx_graph import Quantised, Rounding, padded, quantised
from multistride.model.markov import MarkovHead


def matrix_arrays(
    weight: Quantised, rounding: Rounding, bias: Float[np.ndarray, "O"], unit: float = 1.0
) -> Arrays:
    """Return a matrix whose inputs are rounded by `rounding`, its outputs in `unit`s."""
    scale = weight.scale * np.float32(rounding.step)
    sums = weight.integers.sum(0, dtype=np.int32).astype(np.float32)
    offset = bias + (rounding.lowest * scale) * sums
    parts = scale / np.float32(unit), offset / np.float32(unit)
    return {"weights": in_panels(weight.integers), "scale": parts[0], "offset": parts[1]}


def packed_markov(head: MarkovHead) -> Arrays:
    """Return the arrays of a Markov head."""
    previous, following = quantised(head.previous.weight), padded(quantised(head.following))
    none = np.zeros(len(following.scale), np.float32)
    rows = Rounding(1.0, np.ones(len(following.integers), np.float32))
    stored = (previous.integers.T.astype(np.int16) + 128).astype(np.uint8)
    return {
        "previous": stored,
        "previous_scale": previous.scale,
        **named("following", matrix_arrays(following, rows, none)),
    }
