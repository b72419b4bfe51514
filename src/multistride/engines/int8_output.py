"""From hidden states to logits, or to the most probable tokens without them, as ONNX graphs with int8 weights.

The hidden states are in 8 bits already, as the decoder's graph gives them; inputs and outputs are listed where a
graph is built.

Shapes: B sentences, K slots of a group, R rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto
from torch import Tensor

from multistride.engines.int8_ranges import Rounding
from multistride.engines.onnx_graph import Graph, Quantised, Rows, quantised
from multistride.model.markov import MarkovHead
from multistride.model.transformer import Transformer

BLOCK = 64
"""Columns of the logits that are searched together for their largest."""

CHUNK = 256 * BLOCK
"""Columns of the vocabulary that are projected together."""

LOWEST = float(np.finfo(np.float32).min)
"""The logit of what is never picked."""


def logits_graph(model: Transformer, final: Rounding) -> ModelProto:
    """`hidden` uint8 [R, D] to `logits` float32 [R, V]."""
    config = model.config
    graph = Graph("logits")
    rows = graph.known(final, graph.input("hidden", np.uint8, ["R", config.hidden_size]))
    logits = graph.product(rows, quantised(_output(model), final.shrink))
    graph.output("logits", logits, np.float32, ["R", config.vocabulary_size])
    return graph.model()


def greedy_graph(model: Transformer, final: Rounding) -> ModelProto:
    """`hidden` uint8 [R, D] to the most probable `tokens` int64 [R], and their `log_probabilities` float32 [R].

    The vocabulary is projected in chunks, of each of which only the largest logit, its place and the sum of the
    exponentials are kept (the last as one over the largest share, since the operator for shares is the fast one).
    What is never picked is left out of the product; of equal logits the lowest id is taken.
    """
    config = model.config
    graph = Graph("greedy")
    rows = graph.known(final, graph.input("hidden", np.uint8, ["R", config.hidden_size]))
    best, places, sums = [], [], []
    for first in range(0, config.vocabulary_size, CHUNK):
        logits = _pickable_logits(graph, rows, model, final, first, CHUNK, BLOCK)
        largest, place = _largest(graph, logits)
        share = graph.add("GatherElements", graph.add("Softmax", logits, axis=-1), place, axis=-1)
        sums.append(graph.add("Reciprocal", share))
        best.append(largest)
        places.append(graph.add("Add", place, graph.constant(np.array(first))))
    token, log_probability = _over_chunks(graph, best, places, sums)
    graph.output("tokens", token, np.int64, ["R"])
    graph.output("log_probabilities", log_probability, np.float32, ["R"])
    return graph.model()


def chained_graph(model: Transformer, final: Rounding) -> ModelProto:
    """`hidden` uint8 [B, K, D] to `tokens` int64 [B, K] and `log_probabilities` float32 [B, K], by the Markov head.

    Every token of a group after the first is the most probable one once the token before has corrected all of them
    (`decode/markov.py`, whose sums these are). The head's tables are in 8 bits.
    """
    config, head = model.config, model.markov
    assert head is not None
    graph = Graph("chained")
    hidden = graph.input("hidden", np.uint8, ["B", "K", config.hidden_size])
    rows = graph.known(final, graph.add("Transpose", hidden, perm=[1, 0, 2]))
    logits = _pickable_logits(graph, rows, model, final, 0, config.vocabulary_size, BLOCK)  # [K, B, V]
    first = graph.add("Squeeze", _columns(graph, logits, 0, 1, 0), graph.constant(np.array([0])))
    token, certain = _most_probable(graph, first)
    others = graph.scan(_chain(head), token, _columns(graph, logits, 1, _END, 0), outputs=2)
    found = [(token, others[0], np.int64), (certain, others[1], np.float32)]
    for name, (one, rest, kind) in zip(("tokens", "log_probabilities"), found, strict=True):
        every = graph.add("Concat", graph.add("Unsqueeze", one, graph.constant(np.array([0]))), rest, axis=0)
        shaped = graph.add("Squeeze", every, graph.constant(np.array([2])))
        graph.output(name, graph.add("Transpose", shaped, perm=[1, 0]), kind, ["B", "K"])
    return graph.model()


def _chain(head: MarkovHead) -> Graph:
    """One slot: the token before, and the slot's logits, to the most probable token and its log-probability.

    `before` int64 [B, 1], `plain` float32 [B, V] to `next` and `token` int64 [B, 1] and `certain` float32 [B, 1].
    """
    body = Graph("slot")
    before, plain = body.input("before", np.int64, ["B", 1]), body.input("plain", np.float32, ["B", "V"])
    table, following = quantised(head.previous.weight), quantised(head.following)
    stored = (table.integers.T.astype(np.int16) + 128).astype(np.uint8)
    integers, factor = (body.add("Gather", body.constant(each), before) for each in (stored, table.scale[:, None]))
    rows = Rows(integers, body.constant(np.array(1, np.float32)), body.constant(np.array(128, np.uint8)))
    added = body.add("Mul", body.product(rows, _padded(following, BLOCK)), factor)  # [B, 1, V]
    changed = body.add("Add", plain, body.add("Squeeze", added, body.constant(np.array([1]))))
    token, certain = _most_probable(body, changed)
    body.output("next", token, np.int64, ["B", 1])
    body.output("token", token, np.int64, ["B", 1])
    body.output("certain", certain, np.float32, ["B", 1])
    return body


def _most_probable(graph: Graph, logits: str) -> tuple[str, str]:
    """The token with the largest of the logits [R, V], and its log-probability, both [R, 1]."""
    _, token = _largest(graph, logits)
    share = graph.add("GatherElements", graph.add("Softmax", logits, axis=-1), token, axis=-1)
    return token, graph.add("Log", share)


def _pickable_logits(
    graph: Graph, rows: Rows, model: Transformer, final: Rounding, first: int, width: int, block: int
) -> str:
    """The logits of up to `width` entries of the vocabulary from `first` on, and behind them up to whole blocks.

    What is never picked, and what is no entry, has the lowest number there is.
    """
    weight = quantised(_output(model)[first : first + width], final.shrink)
    missing = -len(weight.scale) % block
    bias = np.zeros(len(weight.scale) + missing, np.float32)
    bias[len(weight.scale) :] = LOWEST
    bias[[token - first for token in model.config.unpicked if first <= token < first + width]] = LOWEST
    return graph.product(rows, _padded(weight, block), bias)


def _padded(weight: Quantised, block: int) -> Quantised:
    """The weights with outputs of zero behind them, up to whole blocks."""
    missing = -len(weight.scale) % block
    integers = np.pad(weight.integers, ((0, 0), (0, missing)))
    return Quantised(integers, np.pad(weight.scale, (0, missing), constant_values=1))


def _largest(graph: Graph, logits: str) -> tuple[str, str]:
    """The largest of each row [R, 1], and the first place where it stands [R, 1].

    The place is looked for in two steps, in the first block that holds the largest: the operator that finds places
    is many times slower than the one that finds values.
    """
    blocks = graph.shaped(logits, 0, -1, BLOCK)
    best = graph.largest(blocks, keep=False)
    block = graph.add("ArgMax", best, axis=-1, keepdims=1)
    one = graph.constant(np.array([1]))
    row = graph.add("GatherND", blocks, graph.add("Unsqueeze", block, one), batch_dims=1)
    inside = graph.add("ArgMax", graph.add("Squeeze", row, one), axis=-1, keepdims=1)
    return graph.largest(best), graph.add("Add", graph.add("Mul", block, graph.constant(np.array(BLOCK))), inside)


def _over_chunks(graph: Graph, best: list[str], places: list[str], sums: list[str]) -> tuple[str, str]:
    """The token and its log-probability [R], from what was kept of each chunk [R, 1]."""
    last, every = graph.constant(np.array([-1])), graph.constant(np.array([-1]))
    bests = graph.add("Concat", *best, axis=-1)
    largest = graph.largest(bests)
    chunk = graph.add("ArgMax", bests, axis=-1, keepdims=1)
    token = graph.add("GatherElements", graph.add("Concat", *places, axis=-1), chunk, axis=-1)
    share = graph.add("Exp", graph.add("Sub", bests, largest))
    parts = graph.add("Mul", graph.add("Concat", *sums, axis=-1), share)
    total = graph.add("ReduceSum", parts, last, keepdims=1)
    log_probability = graph.add("Neg", graph.add("Log", total))
    return graph.add("Reshape", token, every), graph.add("Reshape", log_probability, every)


_END = np.iinfo(np.int64).max
"""The end of a dimension, for a slice."""


def _columns(graph: Graph, values: str, first: int, end: int, axis: int) -> str:
    parts = (graph.constant(np.array([number])) for number in (first, end, axis))
    return graph.add("Slice", values, *parts)


def _output(model: Transformer) -> Tensor:
    weight: Tensor = model.target_embedding.weight if model.config.tie_embeddings else model.output.weight
    return weight
