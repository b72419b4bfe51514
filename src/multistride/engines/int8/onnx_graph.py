"""An ONNX graph under construction, and the components of a Transformer as its nodes, in int8.

Every activation that is rounded has a step of its own (`ranges.py`), which does not depend on the
input. So a row does not depend on the other rows, as it would if the scale came from the whole
tensor, and rounding is one pass, where a scale for each row takes five. Weights have one scale for
each output.

A node of ONNX Runtime costs a few tenths of a microsecond, a call of a PyTorch operator several: so
a step of one row is fast (`benchmarks/products.py`, docs/log/engines-and-speed.md).

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

from multistride.engines.int8.blocks import Blocked, blocked
from multistride.engines.names import SIZES

END = int(np.iinfo(np.int64).max)
"""The end of a dimension, for `Graph.part`."""

BLOCK = 64
"""Number of logits that are searched together for their maximum."""

Shape = Sequence[str | int | None]


class Rounding(NamedTuple):
    """The rounding of an activation to 8 bits: division by `shrink` per channel, then by `step`.

    Integers are `lowest` ... `lowest` + 255; they are stored unsigned, so `-lowest` stands for
    zero.
    """

    step: float
    shrink: Float[np.ndarray, "D"]
    lowest: int = -128
    by_row: bool = False
    """Each row is first divided by its largest entry, which multiplies the product again."""
    block_bits: int = 0
    """Weights have so many bits and are multiplied in blocks (`blocks.py`); 0: they are not."""


class Quantised(NamedTuple):
    """A weight matrix in 8 bits: integers [I, O] and the scale of each output."""

    integers: Int8[np.ndarray, "I O"]
    scale: Float[np.ndarray, "O"]


class Rows(NamedTuple):
    """An activation in 8 bits: the names of its integers, their step and their zero point.

    `scale` names what each row was divided by before, if rows are rounded one by one.
    """

    integers: str
    step: str
    zero: str
    scale: str = ""


def quantised(
    weight: Float[Tensor, "O I"], shrink: Float[np.ndarray, "I"] | None = None
) -> Quantised:
    """Round a weight matrix to -127 ... 127, with one scale for each of its outputs.

    `shrink` is the divisor of the inputs it will read.
    """
    matrix = floats(weight) if shrink is None else floats(weight) * shrink
    scale = np.maximum(np.abs(matrix).max(axis=1), 1e-12) / 127
    integers = np.rint(matrix / scale[:, None]).astype(np.int8)
    return Quantised(np.ascontiguousarray(integers.T), scale.astype(np.float32))


def stored(weight: Float[Tensor, "O I"], rounding: Rounding) -> Quantised | Blocked:
    """Round a weight matrix that reads rows rounded by `rounding`."""
    if rounding.block_bits:
        return blocked(weight, rounding.block_bits)
    return quantised(weight, rounding.shrink)


class Graph:
    """Nodes, constants, inputs and outputs, by name.

    Every method that computes returns the name of its result.
    """

    def __init__(self, name: str) -> None:
        """Begin a graph; all results contain its `name`, so a nested graph shadows nothing."""
        self._name = name
        self._nodes: list[Any] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._given_out: dict[str, str] = {}
        self._sums: dict[str, Any] = {}

    def input(self, name: str, kind: type, shape: Shape) -> str:
        """Declare an input of numpy type `kind`; names in its shape are sizes known at run time."""
        self._inputs.append(helper.make_tensor_value_info(name, _element(kind), shape))
        return name

    def output(self, name: str, computed: str, kind: type, shape: Shape) -> None:
        """Declare a result as an output with a name of its own.

        A second output of the same result is a copy.
        """
        if computed in self._given_out:
            self._nodes.append(helper.make_node("Identity", [computed], [name]))
        else:
            self._given_out[computed] = name
        self._outputs.append(helper.make_tensor_value_info(name, _element(kind), shape))

    def constant(self, value: NDArray[Any]) -> str:
        """Add a constant; a scalar is stored once."""
        kind = f"{value.dtype}_{value}" if value.ndim == 0 else f"constant{len(self._constants)}"
        name = f"{self._name}.{kind}"
        self._constants[name] = np.ascontiguousarray(value)
        return name

    def largest(self, values: str, *, keep: bool = True) -> str:
        """Return the maximum of each row: as a row of length one (`keep`) or as a scalar."""
        return self.add("ReduceMax", values, self.constant(np.array([-1])), keepdims=int(keep))

    def shaped(self, values: str, *shape: int) -> str:
        """Reshape values; 0 keeps a size, and -1 stands for the rest."""
        return self.add("Reshape", values, self.constant(np.array(shape)))

    def part(self, values: str, first: int, end: int, axis: int) -> str:
        """Return the values from `first` to `end` along an axis."""
        return self.add(
            "Slice", values, *(self.constant(np.array([number])) for number in (first, end, axis))
        )

    def add(self, operator: str, *inputs: str, domain: str = "", **choices: Any) -> str:
        """Add a node with one result."""
        return self.many(operator, *inputs, outputs=1, domain=domain, **choices)[0]

    def many(
        self, operator: str, *inputs: str, outputs: int, domain: str = "", **choices: Any
    ) -> list[str]:
        """Add a node with several results."""
        names = [f"{self._name}{len(self._nodes)}.{place}" for place in range(outputs)]
        self._nodes.append(
            helper.make_node(operator, list(inputs), names, domain=domain, **choices)
        )
        return names

    def scan(
        self, body: Graph, carried: str, *sequences: str, outputs: int, axis: int = 0
    ) -> list[str]:
        """Run `body` along an axis of the `sequences`; return its stacked outputs.

        The inputs of `body` are its own first output at the previous index, `carried` at the
        beginning, and one entry of each sequence; its outputs are the carried value and those to be
        stacked. It may read values of this graph.
        """
        choices: dict[str, Any] = {"num_scan_inputs": len(sequences), "body": body._finished()}
        choices |= {
            "scan_input_axes": [axis] * len(sequences),
            "scan_output_axes": [axis] * outputs,
        }
        return self.many("Scan", carried, *sequences, outputs=1 + outputs, **choices)[1:]

    def _finished(self) -> Any:
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [self._given_out.get(name, name) for name in names]
        constants = [
            numpy_helper.from_array(value, name) for name, value in self._constants.items()
        ]
        return helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, constants)

    def model(self) -> ModelProto:
        """Return the finished graph."""
        graph = self._finished()
        opsets = [helper.make_opsetid("", 24), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=10, producer_name="multistride"
        )

    def rounded(self, rows: str, rounding: Rounding) -> Rows:
        """Round rows to 8 bits; they are already divided by `rounding.shrink`.

        What is multiplied in blocks stays as it is: the product rounds it.
        """
        if rounding.block_bits:
            return Rows(rows, "", "")
        known = self.known(rounding)
        if rounding.by_row:
            tiny = self.constant(np.array(1e-12, np.float32))  # a row of zeros stays one
            scale = self.add("Max", self.largest(self.add("Abs", rows)), tiny)
            known, rows = known._replace(scale=scale), self.add("Div", rows, scale)
        return known._replace(integers=self.add("QuantizeLinear", rows, known.step, known.zero))

    def known(self, rounding: Rounding, integers: str = "") -> Rows:
        """Return rows that are already in 8 bits, under the name `integers`."""
        step = self.constant(np.array(rounding.step, np.float32))
        return Rows(integers, step, self.constant(np.array(-rounding.lowest, np.uint8)))

    def product(
        self, rows: Rows, weight: Quantised | Blocked, bias: Float[np.ndarray, "O"] | None = None
    ) -> str:
        """Multiply rows with weights, in float32."""
        if isinstance(weight, Blocked):
            return self._in_blocks(rows, weight, bias)
        parts = [
            rows.integers,
            self.constant(weight.integers),
            rows.step,
            self.constant(weight.scale),
            rows.zero,
        ]
        if bias is not None and not rows.scale:
            parts += ["", self.constant(bias)]
        product = self.add("MatMulIntegerToFloat", *parts, domain="com.microsoft")
        if not rows.scale:
            return product
        scaled = self.add("Mul", product, rows.scale)
        return scaled if bias is None else self.add("Add", scaled, self.constant(bias))

    def _in_blocks(self, rows: Rows, weight: Blocked, bias: Float[np.ndarray, "O"] | None) -> str:
        parts = [rows.integers, self.constant(weight.packed), self.constant(weight.scale)]
        if weight.zero is not None or bias is not None:
            parts.append("" if weight.zero is None else self.constant(weight.zero))
        if bias is not None:
            parts += ["", self.constant(bias)]
        return self.add(
            "MatMulNBits",
            *parts,
            domain="com.microsoft",
            K=weight.inputs,
            N=len(weight.scale),
            bits=weight.bits,
            block_size=SIZES[weight.bits],
            accuracy_level=4,  # activations in 8 bits
        )

    def linear(self, rows: Rows, layer: nn.Linear, rounding: Rounding) -> str:
        """Apply a linear layer to rows that were rounded by `rounding`."""
        bias = None if layer.bias is None else floats(layer.bias)
        return self.product(rows, stored(layer.weight, rounding), bias)

    def norm(self, rows: str, layer: nn.Module, shrink: Float[np.ndarray, "D"]) -> str:
        """Apply a normalisation, divided by `shrink`; nothing where the model has none."""
        if isinstance(layer, nn.RMSNorm):
            weight = self.constant(floats(layer.weight) / shrink)
            if (summed := self._sums.pop(rows, None)) is not None:
                return self._norm_of_sum(summed, weight, layer.eps)
            return self.rms(rows, weight, layer.eps)
        if not isinstance(layer, nn.LayerNorm):
            return rows
        parts = [self.constant(floats(each) / shrink) for each in (layer.weight, layer.bias)]
        return self.add("LayerNormalization", rows, *parts, axis=-1, epsilon=layer.eps)

    def rms(self, rows: str, weight: str, epsilon: float | None) -> str:
        """Apply an RMSNorm whose weight is a constant of this graph."""
        return self.add("SimplifiedLayerNormalization", rows, weight, axis=-1, epsilon=epsilon)

    def residual(self, rows: str, added: str) -> str:
        """Add two equal shapes; an RMSNorm of the sum will be computed in the same pass."""
        summed = self.add("Add", rows, added)
        self._sums[summed] = self._nodes[-1]
        return summed

    def _norm_of_sum(self, summed: Any, weight: str, epsilon: float | None) -> str:
        """Turn the node of a sum into one that normalises it too; return the normalised rows."""
        normed = f"{summed.output[0]}.normed"
        node = helper.make_node(
            "SkipSimplifiedLayerNormalization",
            [*summed.input, weight],
            [normed, "", "", summed.output[0]],
            domain="com.microsoft",
            epsilon=epsilon,
        )
        summed.CopyFrom(node)
        return normed

    def embedding(self, places: str, table: Float[Tensor, "V D"], factor: float = 1.0) -> str:
        """Return rows of a table, stored in 8 bits with a scale for each row, times `factor`."""
        weight = quantised(table)
        rows = self.add("Gather", self.constant(weight.integers.T), places)
        scale = self.add(
            "Gather", self.constant((weight.scale * np.float32(factor))[:, None]), places
        )
        return self.add("Mul", self.add("Cast", rows, to=TensorProto.FLOAT), scale)

    def table(self, places: str, table: Float[Tensor, "V D"]) -> str:
        """Return rows of a float32 table; indices past its end return the last row."""
        clipped = self.add("Min", places, self.constant(np.array(len(table) - 1, np.int64)))
        return self.add("Gather", self.constant(floats(table)), clipped)


def floats(tensor: Tensor) -> NDArray[np.float32]:
    """Return a tensor as a float32 array."""
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array


def _element(kind: type) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(kind)))


def padded(weight: Quantised) -> Quantised:
    """Return the weights with zero outputs appended, up to whole blocks of `BLOCK` logits."""
    missing = -len(weight.scale) % BLOCK
    integers = np.pad(weight.integers, ((0, 0), (0, missing)))
    return Quantised(integers, np.pad(weight.scale, (0, missing), constant_values=1))


def most_probable(graph: Graph, logits: str) -> tuple[str, str]:
    """Return the maximum of each row [R, 1] and its first index [R, 1].

    The index is found in two steps, in the first block that holds the maximum: the operator that
    finds indices is many times slower than the one that finds values.
    """
    blocks = graph.shaped(logits, 0, -1, BLOCK)
    best = graph.largest(blocks, keep=False)
    block = graph.add("ArgMax", best, axis=-1, keepdims=1)
    one = graph.constant(np.array([1]))
    row = graph.add("GatherND", blocks, graph.add("Unsqueeze", block, one), batch_dims=1)
    inside = graph.add("ArgMax", graph.add("Squeeze", row, one), axis=-1, keepdims=1)
    return graph.largest(best), graph.add(
        "Add", graph.add("Mul", block, graph.constant(np.array(BLOCK))), inside
    )
