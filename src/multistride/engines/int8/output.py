"""ONNX graphs with int8 weights that map hidden states to logits or to the most probable tokens.

Hidden states are already in 8 bits, as the decoder graph returns them; inputs and outputs are
listed where a graph is built.

Shapes: R rows, D hidden size, V vocabulary, W the same up to whole blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from onnx import ModelProto
from torch import Tensor

from multistride.engines.int8.blocks import Blocked
from multistride.engines.int8.onnx_graph import (
    BLOCK,
    Graph,
    Quantised,
    Rounding,
    Rows,
    floats,
    most_probable,
    padded,
    stored,
)
from multistride.model.transformer import Transformer

CHUNK = 256 * BLOCK
"""Number of vocabulary entries that are projected together."""

LOWEST = float(np.finfo(np.float32).min)
"""The logit of tokens that are never picked."""


def logits_graph(model: Transformer, final: Rounding) -> ModelProto:
    """Map `hidden` [R, D] to `logits` float32 [R, V]."""
    config = model.config
    graph = Graph("logits")
    rows = final_rows(graph, final, ["R", config.hidden_size])
    bias = None if model.output_bias is None else floats(model.output_bias)
    logits = graph.product(rows, stored(_output(model), final), bias)
    logits = logits if config.output_cap is None else _capped(graph, logits, config.output_cap)
    graph.output("logits", logits, np.float32, ["R", config.vocabulary_size])
    return graph.model()


def greedy_graph(model: Transformer, final: Rounding) -> ModelProto:
    """Map `hidden` uint8 [R, D] to the most probable `tokens` and their `log_probabilities`.

    Tokens are int64 [R], log-probabilities float32 [R]. The vocabulary is projected in chunks; of
    each chunk only the largest logit, its index and its log-probability within the chunk are kept.
    Tokens that are never picked are excluded from the product; among equal logits the lowest id
    wins.
    """
    graph = Graph("greedy")
    rows = final_rows(graph, final, ["R", model.config.hidden_size])
    output = pickable_output(model, final)
    parts = [output.part(first, first + CHUNK) for first in range(0, len(output.bias), CHUNK)]
    logits = [_of_part(graph, rows, part, model.config.output_cap) for part in parts]
    token, certain = (
        chosen(graph, logits[0]) if len(parts) == 1 else _chosen_of_chunks(graph, logits)
    )
    last = graph.constant(np.array([-1]))
    graph.output("tokens", graph.add("Squeeze", token, last), np.int64, ["R"])
    graph.output("log_probabilities", graph.add("Squeeze", certain, last), np.float32, ["R"])
    return graph.model()


def final_rows(graph: Graph, final: Rounding, shape: Sequence[str | int]) -> Rows:
    """Declare the hidden states as the input of a graph; return them in 8 bits.

    They are that already, as the decoder graph writes them, unless rows are rounded one by one.
    """
    if final.by_row:
        return graph.rounded(graph.input("hidden", np.float32, shape), final)
    return graph.known(final, graph.input("hidden", np.uint8, shape))


def chosen(graph: Graph, logits: str) -> tuple[str, str]:
    """Return the token with the largest of the logits [R, W] and its log-probability, both [R, 1].

    `LogSoftmax` reads one row after the other. `Log` of the probabilities would read several at
    once and the rest one by one, by another formula: the last bit would depend on the batch.
    """
    _, token = most_probable(graph, logits)
    certain = graph.add("LogSoftmax", logits, axis=-1)
    return token, graph.add("GatherElements", certain, token, axis=-1)


class PickableOutput(NamedTuple):
    """The output matrix as the graphs that pick tokens read it: column w gives the logit of w.

    Zero columns fill up the vocabulary to whole blocks (W). `bias` is zero, except for tokens that
    are never picked and for the columns that fill up: there it is the lowest number there is.
    """

    weight: Quantised | Blocked
    bias: Float[np.ndarray, "W"]

    def part(self, first: int, end: int) -> PickableOutput:
        """Return the columns from `first` to `end`."""
        bias = self.bias[first:end]
        if isinstance(self.weight, Blocked):
            return PickableOutput(self.weight.part(first, end), bias)
        integers, scale = self.weight
        part = Quantised(np.ascontiguousarray(integers[:, first:end]), scale[first:end])
        return PickableOutput(part, bias)


def pickable_output(model: Transformer, final: Rounding) -> PickableOutput:
    """Return the output matrix for picking tokens: [D, W] in 8 bits."""
    weight = stored(_output(model), final)
    bias = np.zeros(width(model), np.float32)
    if model.output_bias is not None:
        bias[: len(weight.scale)] = floats(model.output_bias)
    bias[len(weight.scale) :] = LOWEST
    bias[list(model.config.unpicked)] = LOWEST
    if isinstance(weight, Blocked):
        return PickableOutput(weight.padded(len(bias)), bias)
    return PickableOutput(padded(weight), bias)


def _of_part(graph: Graph, rows: Rows, part: PickableOutput, cap: float | None) -> str:
    """Return the logits of some columns; those of tokens that are never picked are the lowest."""
    if cap is None:
        return graph.product(rows, part.weight, part.bias)
    capped = _capped(graph, graph.product(rows, part.weight), cap)
    return graph.add("Add", capped, graph.constant(part.bias))


def _capped(graph: Graph, logits: str, cap: float) -> str:
    """Return logits between `-cap` and `cap` (Gemma 2)."""
    limit = graph.constant(np.array(cap, np.float32))
    return graph.add("Mul", graph.add("Tanh", graph.add("Div", logits, limit)), limit)


def width(model: Transformer) -> int:
    """Return the number of vocabulary entries up to whole blocks (W)."""
    return -(-model.config.vocabulary_size // BLOCK) * BLOCK


def _chosen_of_chunks(graph: Graph, chunks: list[str]) -> tuple[str, str]:
    """Return the tokens and log-probabilities of `chosen` from the logits of several chunks."""
    largest, tokens, certain = [], [], []
    for number, logits in enumerate(chunks):
        best, index = most_probable(graph, logits)
        inside = graph.add("LogSoftmax", logits, axis=-1)
        largest.append(best)
        tokens.append(graph.add("Add", index, graph.constant(np.array(number * CHUNK))))
        certain.append(graph.add("GatherElements", inside, index, axis=-1))
    bests, inside = (graph.add("Concat", *each, axis=-1) for each in (largest, certain))
    chunk = graph.add("ArgMax", bests, axis=-1, keepdims=1)
    token = graph.add("GatherElements", graph.add("Concat", *tokens, axis=-1), chunk, axis=-1)
    # What a chunk weighs is the best logit less its log-probability inside the chunk.
    chunks_certain = graph.add("LogSoftmax", graph.add("Sub", bests, inside), axis=-1)
    total = graph.add("Add", inside, chunks_certain)
    return token, graph.add("GatherElements", total, chunk, axis=-1)


def _output(model: Transformer) -> Tensor:
    weight: Tensor = (
        model.target_embedding.weight if model.config.tie_embeddings else model.output.weight
    )
    return weight
