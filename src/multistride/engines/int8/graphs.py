"""The network of `model/transformer.py` as ONNX graphs with int8 weights: the encoder, a decoding
step.

The modules of the model are read, not run; `tests/equivalence/test_int8.py` holds the graphs to
what the modules compute. Every graph is whole in itself and runs without PyTorch; its inputs and
outputs are listed where it is built. What follows from the hidden states, tokens or logits, is in
`output.py` and `chain.py`.

Shapes: B sentences, S source tokens, N slots, C slots there is room for, H heads, E = D / H, V
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from multistride.engines.int8.chain import chained_graph
from multistride.engines.int8.onnx_graph import Graph, Rows
from multistride.engines.int8.output import greedy_graph, logits_graph
from multistride.engines.int8.ranges import FINAL, Rounding, Roundings
from multistride.model.config import TransformerConfig
from multistride.model.layers import FeedForward, PositionEmbedding, Residual
from multistride.model.transformer import DecoderLayer, EncoderLayer, Transformer

Sublayer = Callable[[Graph, Rows, Rounding], str]
"""Adds itself to a graph, given the rows it reads and how they were rounded; returns the name of
its result."""


def graphs_of(model: Transformer) -> dict[str, bytes]:
    """All graphs of a model, by name, as the bytes of ONNX files."""
    roundings = Roundings(model)
    final = roundings.normed(FINAL, alike=model.config.norm == "pre")
    graphs = {
        "decoder": decoder_graph(model, roundings, final),
        "logits": logits_graph(model, final),
        "greedy": greedy_graph(model, final),
    }
    if model.config.encoder_layers:
        graphs["encoder"] = encoder_graph(model, roundings)
    if model.markov is not None:
        graphs["chained"] = chained_graph(model, final)
    return {name: graph.SerializeToString() for name, graph in graphs.items()}


def encoder_graph(model: Transformer, roundings: Roundings) -> ModelProto:
    """`source` int64 [B, S] and `real` int32 [B, S] (1: a token, 0: padding) to the keys and values
    of every layer.

    Outputs `cross_key0`, `cross_value0`, `cross_key1` ... float32 [B, H, S, E].
    """
    config = model.config
    graph = Graph("encoder")
    source = graph.input("source", np.int64, ["B", "S"])
    real = graph.input("real", np.int32, ["B", "S"])
    table = model.target_embedding if config.tie_embeddings else model.source_embedding
    tokens = graph.embedding(source, table.weight, math.sqrt(config.hidden_size))
    length = graph.add(
        "Gather", graph.add("Shape", source), graph.constant(np.array(1, np.int64)), axis=0
    )
    zero, one = (graph.constant(np.array(value, np.int64)) for value in (0, 1))
    hidden = graph.add(
        "Add", tokens, graph.table(graph.add("Range", zero, length, one), _positions(model))
    )
    attention = Attention(graph, config, hidden)
    for index, layer in enumerate(model.encoder):
        assert isinstance(layer, EncoderLayer)
        name = f"encoder.{index}"
        around = _SelfAttention(attention, layer, roundings.other(f"{name}.attention.output"))
        around.real = real
        hidden = _residual(
            graph, hidden, layer.around_attention, roundings, f"{name}.attention.input", around
        )
        hidden = _widened(graph, hidden, layer, roundings, name)
    places = [f"decoder.{index}.cross.key_value" for index in range(config.decoder_layers)]
    rounding = roundings.normed(*places, alike=config.norm == "pre")
    rows = graph.rounded(graph.norm(hidden, model.encoder_norm, rounding.shrink), rounding)
    shape = ("B", config.heads, "S", config.hidden_size // config.heads)
    for index, layer in enumerate(model.decoder):
        assert isinstance(layer, DecoderLayer)
        both = graph.linear(rows, layer.cross.key_value, rounding)
        parts = graph.many("Split", both, outputs=2, axis=-1, num_outputs=2)
        for kind, part in zip(("key", "value"), parts, strict=True):
            graph.output(f"cross_{kind}{index}", _heads(graph, part, config), np.float32, shape)
    return graph.model()


def decoder_graph(model: Transformer, roundings: Roundings, final: Rounding) -> ModelProto:
    """One step: N slots that go into the caches from the place `start` on. `hidden` uint8 [B, N, D]
    comes out.

    Inputs: `token`, `position`, `reach` int64 [B, N]; `start` int64 [B]; `bias` float32 [1 or B, 1,
    max(N, 2), C], added to the attention scores; with an encoder `real` int32 [B, S] and `cross_key0` ...
    as the encoder gives them; `key0`, `value0`, `key1` ... float32 [B, H, C, E]. Outputs
    `new_key0`, `new_value0` ... are the same with the slots in them: bound to the memory of the
    inputs, nothing is copied.
    """
    config = model.config
    graph = Graph("decoder")
    token, position, reach = (
        graph.input(name, np.int64, ["B", "N"]) for name in ("token", "position", "reach")
    )
    start = graph.input("start", np.int64, ["B"])
    bias = graph.input("bias", np.float32, ["A", 1, "M", "C"])
    real = graph.input("real", np.int32, ["B", "S"]) if config.encoder_layers else ""
    hidden = graph.embedding(token, model.target_embedding.weight, math.sqrt(config.hidden_size))
    hidden = graph.add("Add", hidden, graph.table(position, _positions(model)))
    beyond_one = model.reach.beyond_one.weight
    reaches = torch.cat([torch.zeros_like(beyond_one[:1]), beyond_one])
    hidden = graph.add("Add", hidden, graph.table(reach, reaches))
    attention = Attention(graph, config, hidden)
    shape = ("B", config.heads, "C", config.hidden_size // config.heads)
    for index, layer in enumerate(model.decoder):
        assert isinstance(layer, DecoderLayer)
        name = f"decoder.{index}"
        around = _SelfAttention(attention, layer, roundings.other(f"{name}.attention.output"))
        caches = [graph.input(f"{kind}{index}", np.float32, shape) for kind in ("key", "value")]
        around.bias, around.start, around.caches = bias, start, caches
        hidden = _residual(
            graph, hidden, layer.around_attention, roundings, f"{name}.attention.input", around
        )
        for kind, written in zip(("key", "value"), around.written, strict=True):
            graph.output(f"new_{kind}{index}", written, np.float32, shape)
        if config.encoder_layers:
            of_source = ("B", config.heads, "S", config.hidden_size // config.heads)
            source = [
                graph.input(f"cross_{kind}{index}", np.float32, of_source)
                for kind in ("key", "value")
            ]
            cross = _CrossAttention(
                attention, layer, source, real, roundings.other(f"{name}.cross.output")
            )
            hidden = _residual(
                graph, hidden, layer.around_cross, roundings, f"{name}.cross.query", cross
            )
        hidden = _widened(graph, hidden, layer, roundings, name)
    rows = graph.rounded(graph.norm(hidden, model.decoder_norm, final.shrink), final)
    graph.output("hidden", rows.integers, np.uint8, ["B", "N", config.hidden_size])
    return graph.model()


def _positions(model: Transformer) -> Tensor:
    """The vectors of the positions, which this engine adds to the embeddings."""
    assert isinstance(model.position, PositionEmbedding)
    return model.position.table


class Attention:
    """The attention operator of one graph. What a slot gets from it depends on its own query, keys
    and values alone, to the last bit.

    The operator multiplies the weights [N, C] of a head with its values [C, E]. ONNX Runtime sums a
    product of one row in another order than a product of several, so a slot that is computed alone
    (K=1) would get other last bits than beside others (the same slot, checked in exact mode), and
    once in a while another integer when they are rounded. So there are always two rows at least: a
    single query goes in twice. Everything else is summed in one order whatever stands beside it:
    other rows, other sentences, and what is masked behind the last slot that is seen.
    """

    def __init__(self, graph: Graph, config: TransformerConfig, rows: str) -> None:
        """`rows` [B, N, D] says how many queries there will be."""
        self.config = config
        two = graph.constant(np.array([1, 2, 1]))
        self._wide = graph.add("Max", graph.add("Shape", rows), two)
        self._count = graph.add("Shape", rows, start=1, end=2)

    def __call__(
        self, graph: Graph, query: str, pair: Sequence[str], real: str = "", bias: str = ""
    ) -> str:
        """Attend: queries [B, N, D] to float32 [B, max(N, 2), D], which `rounded` cuts to N rows.

        `pair` is keys and values, [B, C, D] or [B, H, C, E].
        `real` [B, C] is 0 where nobody looks; `bias` [1 or B, 1, max(N, 2), C] is added to the
        scores. What is masked gets the lowest score there is, so that it weighs nothing.
        """
        return graph.add(
            "MultiHeadAttention",
            graph.add("Expand", query, self._wide),
            *pair,
            "",
            real,
            bias,
            domain="com.microsoft",
            num_heads=self.config.heads,
            mask_filter_value=float(np.finfo(np.float32).min),
        )

    def rounded(self, graph: Graph, attended: str, inner: Rounding) -> Rows:
        """Return the N rows of what was attended, in 8 bits: a quarter of the bytes to cut."""
        rows = graph.rounded(attended, inner)
        first, axis = graph.constant(np.array([0])), graph.constant(np.array([1]))
        return rows._replace(integers=graph.add("Slice", rows.integers, first, self._count, axis))


class _SelfAttention:
    """Attention among rows: those that are `real`, or all that were `written` to `caches` as `bias`
    allows.
    """

    def __init__(
        self, attention: Attention, layer: EncoderLayer | DecoderLayer, inner: Rounding
    ) -> None:
        self._attention, self._layer, self._inner = attention, layer.attention, inner
        self.real = self.bias = self.start = ""
        self.caches: list[str] = []
        self.written: list[str] = []

    def __call__(self, graph: Graph, rows: Rows, rounding: Rounding) -> str:
        mixed = graph.linear(rows, self._layer.input, rounding)
        query, *parts = graph.many("Split", mixed, outputs=3, axis=-1, num_outputs=3)
        if self.caches:
            news = [_heads(graph, part, self._attention.config) for part in parts]
            pairs = zip(self.caches, news, strict=True)
            parts = [
                graph.add("TensorScatter", cache, new, self.start, axis=2) for cache, new in pairs
            ]
            self.written = parts
        attended = self._attention(graph, query, parts, self.real, self.bias)
        inner = self._attention.rounded(graph, attended, self._inner)
        return graph.linear(inner, self._layer.output, self._inner)


class _CrossAttention:
    """Attention over the source, whose keys and values are there already."""

    def __init__(
        self,
        attention: Attention,
        layer: DecoderLayer,
        source: list[str],
        real: str,
        inner: Rounding,
    ) -> None:
        self._attention, self._layer, self._inner = attention, layer.cross, inner
        self._source, self._real = source, real

    def __call__(self, graph: Graph, rows: Rows, rounding: Rounding) -> str:
        query = graph.linear(rows, self._layer.query, rounding)
        attended = self._attention(graph, query, self._source, self._real)
        inner = self._attention.rounded(graph, attended, self._inner)
        return graph.linear(inner, self._layer.output, self._inner)


class _FeedForward:
    """The feed-forward layer. Where rounding cuts off what is negative there is nothing left for
    ReLU to do.
    """

    def __init__(self, layer: FeedForward, roundings: Roundings, place: str) -> None:
        self._layer = layer
        self._cuts = isinstance(layer.activation, nn.ReLU)
        self._inner = roundings.other(place, positive=self._cuts)

    def __call__(self, graph: Graph, rows: Rows, rounding: Rounding) -> str:
        wide = graph.linear(rows, self._layer.widen, rounding)
        if not self._cuts:
            wide = graph.add("Gelu", wide, domain="com.microsoft")
        return graph.linear(graph.rounded(wide, self._inner), self._layer.narrow, self._inner)


def _widened(
    graph: Graph, hidden: str, layer: EncoderLayer | DecoderLayer, roundings: Roundings, name: str
) -> str:
    feedforward = _FeedForward(layer.feedforward, roundings, f"{name}.feedforward.narrow")
    return _residual(
        graph, hidden, layer.around_feedforward, roundings, f"{name}.feedforward.widen", feedforward
    )


def _residual(
    graph: Graph,
    hidden: str,
    around: Residual,
    roundings: Roundings,
    place: str,
    sublayer: Sublayer,
) -> str:
    rounding = roundings.normed(place, alike=around.before)
    if around.before:
        rows = graph.rounded(graph.norm(hidden, around.norm, rounding.shrink), rounding)
        return graph.add("Add", hidden, sublayer(graph, rows, rounding))
    summed = graph.add("Add", hidden, sublayer(graph, graph.rounded(hidden, rounding), rounding))
    return graph.norm(summed, around.norm, rounding.shrink)


def _heads(graph: Graph, rows: str, config: TransformerConfig) -> str:
    """[B, N, D] as [B, H, N, E]."""
    split = graph.shaped(rows, 0, 0, config.heads, config.hidden_size // config.heads)
    return graph.add("Transpose", split, perm=[0, 2, 1, 3])
