"""An ONNX graph under construction, and the bricks of a Transformer as its nodes, quantised to int8.

Rows are quantised one by one: every row of an activation is divided by its own largest entry, rounded to 8 bits,
multiplied with the weights in integers, and multiplied by that entry again. So what a row becomes does not depend on
the rows beside it, which one scale for the whole tensor would make it do. Weights have one scale for each output.

A node of ONNX Runtime costs a few tenths of a microsecond, a call of a PyTorch operator several: the graph is why a
step of one row is fast (`benchmarks/products.py`, docs/log.md).

Shapes: B sentences, N rows of a sentence, D hidden size, I inputs and O outputs of a linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int8
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

NORM_EPSILON = 1e-5
"""PyTorch's default for `nn.LayerNorm`, which all of ours have."""

Shape = Sequence[str | int | None]


class Quantised(NamedTuple):
    """A weight matrix in 8 bits, as a product reads it: [I, O] integers and the scale of each output."""

    integers: Int8[np.ndarray, "I O"]
    scale: Float[np.ndarray, "O"]


class Rows(NamedTuple):
    """An activation in 8 bits: the names of its integers, of each row's own factor, and of what all rows share."""

    integers: str
    factor: str
    scale: str
    zero: str


def quantised(weight: Float[Tensor, "O I"]) -> Quantised:
    """Round a weight matrix to -127 ... 127, with one scale for each of its outputs."""
    matrix: NDArray[np.float32] = weight.detach().float().cpu().numpy()
    scale = np.maximum(np.abs(matrix).max(axis=1), 1e-12) / 127
    integers = np.rint(matrix / scale[:, None]).astype(np.int8)
    return Quantised(np.ascontiguousarray(integers.T), scale.astype(np.float32))


class Graph:
    """Nodes, constants, inputs and outputs, by name. Every method that computes returns the name of its result."""

    def __init__(self, name: str) -> None:
        """The name stands in those of all results, so that a graph inside another shadows nothing."""
        self._name = name
        self._nodes: list[Any] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, kind: type, shape: Shape) -> str:
        """An input of numpy type `kind`; a name in its shape stands for a size known only at run time."""
        self._inputs.append(helper.make_tensor_value_info(name, _element(kind), shape))
        return name

    def output(self, name: str, computed: str, kind: type, shape: Shape) -> None:
        """Give out what has been `computed` under a name of its own."""
        self._nodes.append(helper.make_node("Identity", [computed], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, _element(kind), shape))

    def constant(self, value: NDArray[Any]) -> str:
        """A constant; a single number is stored once."""
        kind = f"{value.dtype}_{value}" if value.ndim == 0 else f"constant{len(self._constants)}"
        name = f"{self._name}.{kind}"
        self._constants[name] = np.ascontiguousarray(value)
        return name

    def add(self, operator: str, *inputs: str, domain: str = "", **choices: Any) -> str:
        """A node with one result."""
        return self.many(operator, *inputs, outputs=1, domain=domain, **choices)[0]

    def many(self, operator: str, *inputs: str, outputs: int, domain: str = "", **choices: Any) -> list[str]:
        """A node with several results."""
        names = [f"{self._name}{len(self._nodes)}.{place}" for place in range(outputs)]
        self._nodes.append(helper.make_node(operator, list(inputs), names, domain=domain, **choices))
        return names

    def scan(self, body: Graph, carried: str, *sequences: str, outputs: int) -> list[str]:
        """Run `body` along axis 1 of the `sequences`; returns what it gave at each place, stacked along axis 1.

        Its inputs are what the place before gave out first, `carried` at the beginning, and one place of each
        sequence; its outputs the carried value and those that are stacked. It may read values of this graph.
        """
        choices: dict[str, Any] = {"num_scan_inputs": len(sequences), "scan_input_axes": [1] * len(sequences)}
        found = self.many("Scan", carried, *sequences, outputs=1 + outputs, body=body._finished(), **choices)
        return [self.add("Transpose", each, perm=[1, 0]) for each in found[1:]]

    def _finished(self) -> Any:
        constants = [numpy_helper.from_array(value, name) for name, value in self._constants.items()]
        return helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, constants)

    def model(self) -> ModelProto:
        """The finished graph."""
        graph = self._finished()
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="multistride")

    def rounded(self, rows: str, *, positive: bool = False) -> Rows:
        """Rows in 8 bits. Those that are never negative have the whole range for themselves.

        A row of zeros is divided by zero and rounded to anything; the product of that with its factor is zero again.
        """
        top, zero = (255, 0) if positive else (127, 128)
        size = rows if positive else self.add("Abs", rows)
        factor = self.add("ReduceMax", size, axes=[-1], keepdims=1)
        shared = self.constant(np.array(1 / top, np.float32)), self.constant(np.array(zero, np.uint8))
        return Rows(self.add("QuantizeLinear", self.add("Div", rows, factor), *shared), factor, *shared)

    def product(self, rows: Rows, weight: Quantised) -> str:
        """Rows times weights, still to be multiplied by the factor of each row."""
        parts = rows.integers, self.constant(weight.integers), rows.scale, self.constant(weight.scale), rows.zero
        return self.add("MatMulIntegerToFloat", *parts, domain="com.microsoft")

    def linear(self, rows: Rows, layer: nn.Linear) -> str:
        """A linear layer."""
        scaled = self.add("Mul", self.product(rows, quantised(layer.weight)), rows.factor)
        return self.add("Add", scaled, self.constant(_floats(layer.bias)))

    def norm(self, rows: str, layer: nn.Module) -> str:
        """Layer normalisation, or nothing where the model has none."""
        if not isinstance(layer, nn.LayerNorm):
            return rows
        parts = self.constant(_floats(layer.weight)), self.constant(_floats(layer.bias))
        return self.add("LayerNormalization", rows, *parts, axis=-1, epsilon=NORM_EPSILON)

    def embedding(self, places: str, table: Float[Tensor, "V D"], factor: float = 1.0) -> str:
        """Rows of a table, kept in 8 bits with a scale for each, times `factor`."""
        weight = quantised(table)
        rows = self.add("Gather", self.constant(weight.integers.T), places)
        scale = self.add("Gather", self.constant((weight.scale * np.float32(factor))[:, None]), places)
        return self.add("Mul", self.add("Cast", rows, to=TensorProto.FLOAT), scale)

    def table(self, places: str, table: Float[Tensor, "V D"]) -> str:
        """Rows of a table in float32; places past its end share the last row."""
        clipped = self.add("Min", places, self.constant(np.array(len(table) - 1, np.int64)))
        return self.add("Gather", self.constant(_floats(table)), clipped)


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array


def _element(kind: type) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
