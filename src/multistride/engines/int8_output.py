"""From hidden states to logits, or to the most probable tokens without them, as ONNX graphs with int8 weights.

The hidden states are in 8 bits already, as the decoder's graph gives them; inputs and outputs are listed where a
graph is built.

Shapes: B sentences, K slots of a group, R rows, D hidden size, V vocabulary, C candidates of a slot, E rank of
the head.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto
from torch import Tensor

from multistride.decode.markov import CANDIDATES
from multistride.engines.int8_ranges import Rounding
from multistride.engines.onnx_graph import Graph, Quantised, Rows, floats, quantised
from multistride.model.transformer import Transformer

BLOCK = 64
"""Columns of the logits that are searched together for their largest."""

SHORT = 16
"""The same where the largest few are searched."""

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

    The first token of a group is the most probable one; every other the best of its slot's candidates once they are
    corrected by the token before (`decode/markov.py`, whose sums these are).
    """
    config, head = model.config, model.markov
    assert head is not None
    graph = Graph("chained")
    rows = graph.known(final, graph.input("hidden", np.uint8, ["B", "K", config.hidden_size]))
    logits = _pickable_logits(graph, rows, model, final, 0, config.vocabulary_size, SHORT)
    best, listed = _leading(graph, logits, config.vocabulary_size)
    highest, at = (_columns(graph, each, 0, 1, 2) for each in (best, listed))
    share = graph.add("GatherElements", graph.add("Softmax", logits, axis=-1), at, axis=-1)
    plain = graph.add("Add", graph.add("Sub", best, highest), graph.add("Log", share))
    listed, plain = (graph.add("Transpose", each, perm=[1, 0, 2]) for each in (listed, plain))  # [K, B, C]
    token, certain = (_columns(graph, _columns(graph, each, 0, 1, 2), 0, 1, 0) for each in (listed, plain))
    listed, plain = (_columns(graph, each, 1, _END, 0) for each in (listed, plain))
    previous, following = (graph.constant(floats(table)) for table in (head.previous.weight, head.following))
    read = graph.add("Gather", following, listed)
    carried = graph.add("Squeeze", token, graph.constant(np.array([0])))
    tokens, changed = graph.scan(_chain(previous), carried, listed, plain, read, outputs=2)
    found = [(token, tokens, np.int64), (certain, _certainty(graph, plain, changed), np.float32)]
    for name, (first, others, kind) in zip(("tokens", "log_probabilities"), found, strict=True):
        every = graph.add("Squeeze", graph.add("Concat", first, others, axis=0), graph.constant(np.array([2])))
        graph.output(name, graph.add("Transpose", every, perm=[1, 0]), kind, ["B", "K"])
    return graph.model()


def _chain(previous: str) -> Graph:
    """One slot: the token before, and the slot's candidates, to the best token and the corrected candidates.

    `before` int64 [B, 1], `listed` int64 [B, C], `plain` float32 [B, C], `read` float32 [B, C, E] to `next` and
    `token` int64 [B, 1] and `changed` float32 [B, C].
    """
    body = Graph("slot")
    before = body.input("before", np.int64, ["B", 1])
    listed, plain = body.input("listed", np.int64, ["B", "C"]), body.input("plain", np.float32, ["B", "C"])
    read = body.input("read", np.float32, ["B", "C", "E"])
    factor = body.add("Gather", previous, before)  # [B, 1, E]
    added = body.add("FusedMatMul", factor, read, domain="com.microsoft", transB=1)
    changed = body.add("Add", plain, body.add("Squeeze", added, body.constant(np.array([1]))))
    token = body.add("GatherElements", listed, body.add("ArgMax", changed, axis=1, keepdims=1), axis=1)
    body.output("next", token, np.int64, ["B", 1])
    body.output("token", token, np.int64, ["B", 1])
    body.output("changed", changed, np.float32, ["B", "C"])
    return body


def _certainty(graph: Graph, plain: str, changed: str) -> str:
    """The log-probability of the best of the corrected candidates, among all tokens [K, B, 1]."""
    last = graph.constant(np.array([-1]))
    among = graph.add("ReduceSum", graph.add("Exp", plain), last, keepdims=1)
    others = graph.add("Relu", graph.add("Sub", graph.constant(np.array(1, np.float32)), among))
    highest = graph.largest(changed)
    sums = graph.add("ReduceSum", graph.add("Exp", graph.add("Sub", changed, highest)), last, keepdims=1)
    rest = graph.add("Mul", others, graph.add("Exp", graph.add("Neg", highest)))
    return graph.add("Neg", graph.add("Log", graph.add("Add", sums, rest)))


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
    integers = np.pad(weight.integers, ((0, 0), (0, missing)))
    return graph.product(rows, Quantised(integers, np.pad(weight.scale, (0, missing), constant_values=1)), bias)


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


def _leading(graph: Graph, logits: str, width: int) -> tuple[str, str]:
    """The largest of each row in order and their places, both [B, K, C].

    All of them are in the C blocks with the largest largest: before what is in another block there are C that are as
    large, one in each. So only those blocks are searched entry by entry. Of equal ones the first is the first.
    """
    count = graph.constant(np.array([min(CANDIDATES, width)]))
    if width <= CANDIDATES * SHORT:
        best, places = graph.many("TopK", logits, count, outputs=2)
        return best, places
    blocks = graph.shaped(logits, 0, 0, -1, SHORT)
    _, chosen = graph.many("TopK", graph.largest(blocks, keep=False), count, outputs=2)
    found = graph.add(
        "GatherND", blocks, graph.add("Unsqueeze", chosen, graph.constant(np.array([-1]))), batch_dims=2
    )
    best, inside = graph.many("TopK", graph.shaped(found, 0, 0, -1), count, outputs=2)
    size = graph.constant(np.array(SHORT))
    block = graph.add("GatherElements", chosen, graph.add("Div", inside, size), axis=-1)
    return best, graph.add("Add", graph.add("Mul", block, size), graph.add("Mod", inside, size))


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
