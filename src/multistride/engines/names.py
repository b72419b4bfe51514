"""The names of engines, which are the values of `--engine`, and the forms of their weights."""

from __future__ import annotations

from typing import Literal, get_args

EngineName = Literal["eager", "int8", "int8-rows", "int4", "gpu", "auto"]


ENGINES: tuple[EngineName, ...] = get_args(EngineName)
"""The names that `open_engine` takes."""


WeightForm = Literal["int8", "int8-rows", "int4"]
"""The forms of the weights of the engines on ONNX Runtime: 8 bits as suits
the model, 8 bits with one scale for each row, and 4 bits. They are the names of these engines."""


SIZES = {8: 64, 4: 32}
"""Weights of a block that share a scale, by their number of bits."""


def choice(name: str, reason: str) -> str:
    """Return the line that says which engine `auto` took, and why."""
    return f"engine: {name}, {reason}"
