"""The network of `model/transformer.py` as ONNX graphs with int8 weights: the encoder, a decoding step, the output.

The modules of the model are read, not run; `tests/equivalence/test_int8.py` holds the graphs to what the modules
compute. Every graph is whole in itself and runs without PyTorch; its inputs and outputs are listed where it is built.

Shapes: B sentences, S source tokens, N slots, M slots cached before, H heads, E = D / H, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from multistride.engines.onnx_graph import Graph, Quantised, Rows, quantised
from multistride.model.config import TransformerConfig
from multistride.model.layers import FeedForward, PositionEmbedding, Residual
from multistride.model.transformer import DecoderLayer, EncoderLayer, Transformer

BLOCK = 64
"""Columns of the logits that are searched together for their largest."""

CHUNK = 256 * BLOCK
"""Columns of the vocabulary that are projected together."""


def graphs_of(model: Transformer) -> dict[str, bytes]:
    """All graphs of a model, by name, as the bytes of ONNX files."""
    makers = {"decoder": decoder_graph, "logits": logits_graph, "greedy": greedy_graph}
    if model.config.encoder_layers:
        makers["encoder"] = encoder_graph
    if model.markov is not None:
        makers["chained"] = chained_graph
    return {name: make(model).SerializeToString() for name, make in makers.items()}


def encoder_graph(model: Transformer) -> ModelProto:
    """`source` int64 [B, S] and `real` int32 [B, S] (1: a token, 0: padding) to the keys and values of every layer.

    Outputs `cross_key0`, `cross_value0`, `cross_key1` ... float32 [B, H, S, E].
    """
    config = model.config
    graph = Graph("encoder")
    source = graph.input("source", np.int64, ["B", "S"])
    real = graph.input("real", np.int32, ["B", "S"])
    table = model.target_embedding if config.tie_embeddings else model.source_embedding
    tokens = graph.embedding(source, table.weight, math.sqrt(config.hidden_size))
    length = graph.add("Gather", graph.add("Shape", source), graph.constant(np.array(1, np.int64)), axis=0)
    zero, one = (graph.constant(np.array(value, np.int64)) for value in (0, 1))
    hidden = graph.add("Add", tokens, graph.table(graph.add("Range", zero, length, one), _positions(model)))
    for layer in model.encoder:
        assert isinstance(layer, EncoderLayer)
        hidden = _residual(graph, hidden, layer.around_attention, _SelfAttention(config, layer, real))
        hidden = _residual(graph, hidden, layer.around_feedforward, _Widened(layer.feedforward))
    rows = graph.rounded(graph.norm(hidden, model.encoder_norm))
    shape = ("B", config.heads, "S", config.hidden_size // config.heads)
    for index, layer in enumerate(model.decoder):
        assert isinstance(layer, DecoderLayer)
        both = graph.many("Split", graph.linear(rows, layer.cross.key_value), outputs=2, axis=-1)
        for name, part in zip(("key", "value"), both, strict=True):
            graph.output(f"cross_{name}{index}", _heads(graph, part, config), np.float32, shape)
    return graph.model()


def decoder_graph(model: Transformer) -> ModelProto:
    """One step: N slots after M cached ones. Output `hidden` float32 [B, N, D], and the cache grown by the slots.

    Inputs: `token`, `position`, `reach` int64 [B, N]; `bias` float32 [1 or B, 1, N, M + N], added to the attention
    scores; with an encoder `real` int32 [B, S] and `cross_key0` ... as the encoder gives them; `key0`, `value0`,
    `key1` ... float32 [B, H, M, E]. Outputs `new_key0`, `new_value0` ... float32 [B, H, M + N, E].
    """
    config = model.config
    width = config.hidden_size // config.heads
    graph = Graph("decoder")
    token, position, reach = (graph.input(name, np.int64, ["B", "N"]) for name in ("token", "position", "reach"))
    bias = graph.input("bias", np.float32, ["A", 1, "N", "L"])
    real = graph.input("real", np.int32, ["B", "S"]) if config.encoder_layers else ""
    hidden = graph.embedding(token, model.target_embedding.weight, math.sqrt(config.hidden_size))
    hidden = graph.add("Add", hidden, graph.table(position, _positions(model)))
    ahead = graph.add("Sub", reach, graph.constant(np.array(1, np.int64)))
    hidden = graph.add("Add", hidden, graph.table(ahead, model.reach.beyond_one.weight))
    for index, layer in enumerate(model.decoder):
        assert isinstance(layer, DecoderLayer)
        past = [
            graph.input(f"{name}{index}", np.float32, ["B", config.heads, "M", width]) for name in ("key", "value")
        ]
        attention = _SelfAttention(config, layer, "", bias, past)
        hidden = _residual(graph, hidden, layer.around_attention, attention)
        for name, grown in zip(("key", "value"), attention.grown, strict=True):
            graph.output(f"new_{name}{index}", grown, np.float32, ["B", config.heads, "L", width])
        if config.encoder_layers:
            shape = ("B", config.heads, "S", width)
            source = [graph.input(f"cross_{name}{index}", np.float32, shape) for name in ("key", "value")]
            hidden = _residual(graph, hidden, layer.around_cross, _CrossAttention(config, layer, source, real))
        hidden = _residual(graph, hidden, layer.around_feedforward, _Widened(layer.feedforward))
    hidden = graph.norm(hidden, model.decoder_norm)
    graph.output("hidden", hidden, np.float32, ["B", "N", config.hidden_size])
    return graph.model()


def greedy_graph(model: Transformer) -> ModelProto:
    """`hidden` float32 [R, D] to the most probable `tokens` int64 [R], and their `log_probabilities` float32 [R].

    The vocabulary is projected in chunks, of each of which only the largest logit, its place and the sum of the
    exponentials are kept (the last as one over the largest share, since the operator for shares is the fast one).
    What is never picked is left out of the product; of equal logits the lowest id is taken.
    """
    config = model.config
    graph = Graph("greedy")
    rows = graph.rounded(graph.input("hidden", np.float32, ["R", config.hidden_size]))
    ids, weight = _pickable(config), quantised(_output(model))
    best, places, sums = [], [], []
    for first in range(0, len(ids), CHUNK):
        chosen = ids[first : first + CHUNK]
        part = Quantised(weight.integers[:, chosen], weight.scale[chosen])
        logits = graph.add("Mul", graph.product(rows, part), rows.factor)
        largest, place = _largest(graph, logits, len(chosen))
        share = graph.add("ReduceMax", graph.add("Softmax", logits, axis=-1), axes=[-1], keepdims=1)
        sums.append(graph.add("Reciprocal", share))
        best.append(largest)
        places.append(graph.add("Gather", graph.constant(chosen), place))
    token, log_probability = _over_chunks(graph, best, places, sums)
    graph.output("tokens", token, np.int64, ["R"])
    graph.output("log_probabilities", log_probability, np.float32, ["R"])
    return graph.model()


def chained_graph(model: Transformer) -> ModelProto:
    """`hidden` float32 [B, K, D] to `tokens` int64 [B, K] and `log_probabilities` float32 [B, K], by the Markov head.

    Every token of a group after the first is the most probable one once the token before has corrected all of them
    (`decode/markov.py`, whose sums these are).
    """
    config, head = model.config, model.markov
    assert head is not None
    graph = Graph("chained")
    rows = graph.rounded(graph.input("hidden", np.float32, ["B", "K", config.hidden_size]))
    ids, weight = _pickable(config), quantised(_output(model))
    part = Quantised(weight.integers[:, ids], weight.scale[ids])
    logits = graph.add("Mul", graph.product(rows, part), rows.factor)
    first = graph.add("Squeeze", _columns(graph, logits, 0, 1), graph.constant(np.array([1])))
    names = graph.constant(ids)
    token, certain = _most_probable(graph, first, names)
    previous = graph.constant(head.previous.weight.detach().numpy())
    body = Graph("slot")
    before, plain = body.input("before", np.int64, ["B"]), body.input("plain", np.float32, ["B", "V"])
    rows = body.rounded(body.add("Gather", previous, before))
    added = body.add("Mul", body.product(rows, quantised(head.following[ids])), rows.factor)
    chosen, sure = _most_probable(body, body.add("Add", plain, added), names)
    body.output("next", chosen, np.int64, ["B"])
    body.output("token", chosen, np.int64, ["B"])
    body.output("certain", sure, np.float32, ["B"])
    found = graph.scan(body, token, _columns(graph, logits, 1, _END), outputs=2)
    last = _last(graph)
    pairs = zip((token, certain), found, strict=True)
    tokens, values = (graph.add("Concat", graph.add("Unsqueeze", one, last), rest, axis=1) for one, rest in pairs)
    graph.output("tokens", tokens, np.int64, ["B", "K"])
    graph.output("log_probabilities", values, np.float32, ["B", "K"])
    return graph.model()


def _most_probable(graph: Graph, scores: str, names: str) -> tuple[str, str]:
    """The token with the largest score in each row, by its name, and its log-probability."""
    place = graph.add("ArgMax", scores, axis=-1, keepdims=0)
    largest = graph.add("ReduceMax", scores, axes=[-1], keepdims=1)
    total = graph.add("ReduceSum", graph.add("Exp", graph.add("Sub", scores, largest)), _last(graph), keepdims=0)
    return graph.add("Gather", names, place), graph.add("Neg", graph.add("Log", total))


def logits_graph(model: Transformer) -> ModelProto:
    """`hidden` float32 [R, D] to `logits` float32 [R, V]."""
    config = model.config
    graph = Graph("logits")
    rows = graph.rounded(graph.input("hidden", np.float32, ["R", config.hidden_size]))
    logits = graph.add("Mul", graph.product(rows, quantised(_output(model))), rows.factor)
    graph.output("logits", logits, np.float32, ["R", config.vocabulary_size])
    return graph.model()


def _positions(model: Transformer) -> Tensor:
    """The vectors of the positions, which this engine adds to the embeddings."""
    assert isinstance(model.position, PositionEmbedding)
    return model.position.table


class _SelfAttention:
    """Attention among rows. `grown` names the keys and values of all slots, where some were cached before."""

    def __init__(
        self,
        config: TransformerConfig,
        layer: EncoderLayer | DecoderLayer,
        real: str,
        bias: str = "",
        past: list[str] | None = None,
    ) -> None:
        self._heads, self._layer, self._real, self._bias = config.heads, layer.attention, real, bias
        self._past = past
        self.grown: list[str] = []

    def __call__(self, graph: Graph, rows: Rows) -> str:
        parts = graph.many("Split", graph.linear(rows, self._layer.input), outputs=3, axis=-1)
        mask = ["", self._real, self._bias, *(self._past or [])]
        outputs = 3 if self._past else 1
        found = graph.many("MultiHeadAttention", *parts, *mask, outputs=outputs, **_attention(self._heads))
        self.grown = found[1:]
        return graph.linear(graph.rounded(found[0]), self._layer.output)


class _CrossAttention:
    """Attention over the source, whose keys and values are there already."""

    def __init__(self, config: TransformerConfig, layer: DecoderLayer, source: list[str], real: str) -> None:
        self._heads, self._layer, self._source, self._real = config.heads, layer.cross, source, real

    def __call__(self, graph: Graph, rows: Rows) -> str:
        query = graph.linear(rows, self._layer.query)
        inputs = query, *self._source, "", self._real
        found = graph.add("MultiHeadAttention", *inputs, **_attention(self._heads))
        return graph.linear(graph.rounded(found), self._layer.output)


class _Widened:
    """The feed-forward layer."""

    def __init__(self, layer: FeedForward) -> None:
        self._layer = layer

    def __call__(self, graph: Graph, rows: Rows) -> str:
        wide = graph.linear(rows, self._layer.widen)
        if isinstance(self._layer.activation, nn.ReLU):
            inner = graph.rounded(graph.add("Relu", wide), positive=True)
        else:
            inner = graph.rounded(graph.add("Gelu", wide, domain="com.microsoft"))
        return graph.linear(inner, self._layer.narrow)


def _residual(graph: Graph, hidden: str, around: Residual, sublayer: Any) -> str:
    if around.before:
        return graph.add("Add", hidden, sublayer(graph, graph.rounded(graph.norm(hidden, around.norm))))
    return graph.norm(graph.add("Add", hidden, sublayer(graph, graph.rounded(hidden))), around.norm)


def _largest(graph: Graph, logits: str, width: int) -> tuple[str, str]:
    """The largest of each row [R, 1], and the first place where it stands [R, 1].

    The place is looked for in two steps, in the first block that holds the largest: the operator that finds places
    is many times slower than the one that finds values.
    """
    whole = -(-width // BLOCK)
    if whole * BLOCK > width:
        amount = graph.constant(np.array([0, 0, 0, whole * BLOCK - width]))
        logits = graph.add("Pad", logits, amount, graph.constant(np.array(-np.inf, np.float32)))
    blocks = graph.add("Reshape", logits, graph.constant(np.array([0, whole, BLOCK])))
    best = graph.add("ReduceMax", blocks, axes=[-1], keepdims=0)
    largest = graph.add("ReduceMax", best, axes=[-1], keepdims=1)
    block = graph.add("ArgMax", best, axis=-1, keepdims=1)
    one = graph.constant(np.array([1]))
    row = graph.add("GatherND", blocks, graph.add("Unsqueeze", block, one), batch_dims=1)
    inside = graph.add("ArgMax", graph.add("Squeeze", row, one), axis=-1, keepdims=1)
    start = graph.add("Mul", block, graph.constant(np.array(BLOCK)))
    return largest, graph.add("Add", start, inside)


def _over_chunks(graph: Graph, best: list[str], places: list[str], sums: list[str]) -> tuple[str, str]:
    """The token and its log-probability [R], from what was kept of each chunk [R, 1]."""
    last, every = graph.constant(np.array([-1])), graph.constant(np.array([-1]))
    bests = graph.add("Concat", *best, axis=-1)
    largest = graph.add("ReduceMax", bests, axes=[-1], keepdims=1)
    chunk = graph.add("ArgMax", bests, axis=-1, keepdims=1)
    token = graph.add("GatherElements", graph.add("Concat", *places, axis=-1), chunk, axis=-1)
    share = graph.add("Exp", graph.add("Sub", bests, largest))
    parts = graph.add("Mul", graph.add("Concat", *sums, axis=-1), share)
    total = graph.add("ReduceSum", parts, last, keepdims=1)
    log_probability = graph.add("Neg", graph.add("Log", total))
    return graph.add("Reshape", token, every), graph.add("Reshape", log_probability, every)


_END = np.iinfo(np.int64).max
"""The end of a dimension, for a slice."""


def _columns(graph: Graph, values: str, first: int, end: int, axis: int = 1) -> str:
    parts = (graph.constant(np.array([number])) for number in (first, end, axis))
    return graph.add("Slice", values, *parts)


def _last(graph: Graph) -> str:
    return graph.constant(np.array([-1]))


def _pickable(config: TransformerConfig) -> NDArray[np.int64]:
    """The ids that may be written."""
    return np.array([token for token in range(config.vocabulary_size) if token not in config.unpicked])


def _attention(heads: int) -> dict[str, Any]:
    """Choices of the attention operator; what is masked gets the lowest score there is, so that it weighs nothing."""
    return {"domain": "com.microsoft", "num_heads": heads, "mask_filter_value": float(np.finfo(np.float32).min)}


def _heads(graph: Graph, rows: str, config: TransformerConfig) -> str:
    """[B, N, D] as [B, H, N, E]."""
    shape = graph.constant(np.array([0, 0, config.heads, config.hidden_size // config.heads], np.int64))
    return graph.add("Transpose", graph.add("Reshape", rows, shape), perm=[0, 2, 1, 3])


def _output(model: Transformer) -> Any:
    return model.target_embedding.weight if model.config.tie_embeddings else model.output.weight
