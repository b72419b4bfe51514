"""The network of `model/transformer.py` as ONNX graphs with int8 weights: encoder and decoder step.

The weights of the modules are read, the modules are not run; `tests/equivalence/test_int8.py`
compares the graphs with them. Every graph is complete and runs without PyTorch; its inputs and
outputs are listed where it is built. `output.py` and `chain.py` map hidden states to logits and
tokens.

Shapes: B sentences, S source tokens, N slots, C slots there is room for, H heads, E = D / H, V
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from torch import Tensor, nn

from multistride.engines.int8.chain import chained_graph
from multistride.engines.int8.linears import divided, linear_of, side_by_side
from multistride.engines.int8.native.library import NATIVE
from multistride.engines.int8.native.networks import supported
from multistride.engines.int8.native.pack_converted import packed_converted
from multistride.engines.int8.native.pack_translation import packed_translation
from multistride.engines.int8.native.stored import content_of
from multistride.engines.int8.onnx_graph import Graph, Quantised, Rounding, Rows, floats, quantised
from multistride.engines.int8.output import LOWEST, greedy_graph, logits_graph
from multistride.engines.int8.ranges import FINAL, Roundings
from multistride.engines.names import WeightForm
from multistride.model.attention import SelfAttention
from multistride.model.config import TransformerConfig
from multistride.model.distance import RelativeBias, RelativePositions
from multistride.model.layers import (
    FeedForward,
    PositionEmbedding,
    Residual,
    RotaryPositions,
    Rotation,
    StartVectors,
)
from multistride.model.transformer import DecoderLayer, EncoderLayer, Transformer

Sublayer = Callable[[Graph, Rows, Rounding], str]
"""Adds a sublayer to a graph: from its input and the rounding of that to its result's name."""


def graphs_of(model: Transformer, form: WeightForm = "int8") -> dict[str, Callable[[], bytes]]:
    """Return the builders of all graphs of a model with weights in this form, by name.

    With them is that of the weights of the native kernels, if those can run the model.
    The model must not change before the last graph is built.
    """
    roundings = Roundings(model, form)
    final = roundings.normed(FINAL, alike=model.config.norm != "post")
    makers: dict[str, Callable[[], ModelProto]] = {
        "decoder": partial(decoder_graph, model, roundings, final),
        "logits": partial(logits_graph, model, final),
        "greedy": partial(greedy_graph, model, final),
    }
    if not roundings.by_row:
        makers["single"] = partial(decoder_graph, model, roundings, final, single=True)
    if model.config.encoder_layers:
        makers["encoder"] = partial(encoder_graph, model, roundings)
    if model.markov is not None:
        makers["chained"] = partial(chained_graph, model, final)
    graphs: dict[str, Callable[[], bytes]] = {
        name: partial(_bytes_of, make) for name, make in makers.items()
    }
    if supported(model.config, form):
        graphs[NATIVE] = partial(_native, model, roundings, final)
    return graphs


def _native(model: Transformer, roundings: Roundings, final: Rounding) -> bytes:
    packed = packed_converted if roundings.by_row else packed_translation
    return content_of(packed(model, roundings, final))


def _bytes_of(make: Callable[[], ModelProto]) -> bytes:
    content: bytes = make().SerializeToString()
    return content


def encoder_graph(model: Transformer, roundings: Roundings) -> ModelProto:
    """Map `source` and `real`, both [B, S], to the cross-attention keys and values of every layer.

    `source` is int64; `real` is int32, 1 for a token and 0 for padding. Outputs `cross_key0`,
    `cross_value0`, `cross_key1` ... are float32 [B, H, S, E].
    """
    config = model.config
    graph = Graph("encoder")
    source = graph.input("source", np.int64, ["B", "S"])
    real = graph.input("real", np.int32, ["B", "S"])
    table = model.target_embedding if config.tie_embeddings else model.source_embedding
    hidden = graph.embedding(source, table.weight, model.scale)
    length = graph.add(
        "Gather", graph.add("Shape", source), graph.constant(np.array(1, np.int64)), axis=0
    )
    zero, one = (graph.constant(np.array(value, np.int64)) for value in (0, 1))
    places, rotation, bias = graph.add("Range", zero, length, one), None, ""
    if isinstance(model.position, RotaryPositions):
        every = graph.add("Expand", places, graph.add("Shape", source))
        rotation = _Rotation(graph, model.position(_every(config)), every)
    elif isinstance(model.source_position, RelativeBias):
        query, key = (graph.shaped(places, 1, 1, *shape) for shape in ((-1, 1), (1, -1)))
        bias = _learned(graph, model.source_position, graph.add("Sub", query, key))
    else:
        positions = model.source_position or model.position
        assert isinstance(positions, PositionEmbedding)
        hidden = graph.add("Add", hidden, graph.table(places, positions.table))
    hidden = graph.norm(hidden, model.source_embedding_norm, _ones(config))
    attention = Attention(graph, config, alone=hidden)
    bias = attention.of_heads(graph, bias) if bias else ""
    for index, layer in enumerate(model.encoder):
        assert isinstance(layer, EncoderLayer)
        name = f"encoder.{index}"
        around = _SelfAttention(attention, layer, roundings.other(f"{name}.attention.output"))
        around.real, around.bias, around.rotation = real, bias, rotation
        hidden = _residual(
            graph, hidden, layer.around_attention, roundings, f"{name}.attention.input", around
        )
        hidden = _widened(graph, hidden, layer, roundings, name)
    readers = [f"decoder.{index}.cross.key_value" for index in range(config.decoder_layers)]
    rounding = roundings.normed(*readers, alike=config.norm == "pre")
    rows = graph.rounded(graph.norm(hidden, model.encoder_norm, rounding.shrink), rounding)
    shape = ("B", config.key_value_count, "S", config.head_width)
    for index, layer in enumerate(model.decoder):
        assert isinstance(layer, DecoderLayer)
        if roundings.by_row:
            both = graph.linear(rows, layer.cross.key_value, rounding)
            key, value = graph.many("Split", both, outputs=2, axis=-1, num_outputs=2)
        else:
            shift = far(roundings.grid(f"decoder.{index}.cross").key)
            shifts = np.repeat(np.array([shift, 0], np.float32), config.hidden_size)
            both = graph.product(rows, *_scaled(layer.cross.key_value, rounding, 1, shifts))
            key, value = graph.many("Split", both, outputs=2, axis=-1, num_outputs=2)
            key = graph.add("Sub", key, graph.constant(np.array(shift, np.float32)))
        for kind, part in (("key", key), ("value", value)):
            graph.output(f"cross_{kind}{index}", attention.heads(graph, part), np.float32, shape)
    return graph.model()


def decoder_graph(
    model: Transformer, roundings: Roundings, final: Rounding, *, single: bool = False
) -> ModelProto:
    """Compute one step: N new slots, cached from index `start` on, to `hidden` [B, N, D].

    It is uint8, or float32 where rows are rounded one by one. Then one graph serves any N; else N
    is 1 in a `single` graph and at least 2 in the other. Inputs: `token`, `position`, `reach`
    int64 [B, N]; `start` int64 [B]; `bias` float32 [1 or B, 1, N, C], added to the attention
    scores; with an encoder `real` int32 [B, S] and the outputs of the encoder, `cross_key0` ...;
    `key0`, `value0`, `key1` ... float32 [B, H, C, E], and `place` float32 [B, 1, C, 1], the
    positions, where attention depends on them. Outputs `new_key0`, `new_value0` ... are the caches
    with the new slots; they are bound to the memory of the inputs, so nothing is copied.
    """
    config = model.config
    graph, slots = Graph("decoder"), 1 if single else "N"
    token, position, reach = (
        graph.input(name, np.int64, ["B", slots]) for name in ("token", "position", "reach")
    )
    start = graph.input("start", np.int64, ["B"])
    bias = graph.input("bias", np.float32, ["A", 1, slots, "C"])
    real = graph.input("real", np.int32, ["B", "S"]) if config.encoder_layers else ""
    hidden, rotation = graph.embedding(token, model.target_embedding.weight, model.scale), None
    if isinstance(model.position, RotaryPositions):
        rotation = _Rotation(graph, model.position(_every(config)), position)
    if isinstance(model.position, StartVectors):
        hidden = graph.add("Add", hidden, _further_starts(graph, model.position, position, reach))
    else:
        assert isinstance(model.position, PositionEmbedding)
        hidden = graph.add("Add", hidden, graph.table(position, model.position.table))
    beyond_one = model.reach.beyond_one.weight
    reaches = torch.cat([torch.zeros_like(beyond_one[:1]), beyond_one])
    hidden = graph.add("Add", hidden, graph.table(reach, reaches))
    hidden = graph.norm(hidden, model.target_embedding_norm, _ones(config))
    alone = hidden if roundings.by_row else ""
    attention = SingleAttention(graph, config, real) if single else Attention(graph, config, alone)
    sights = _sights(graph, model, bias, position, start)
    biases = {sight: attention.of_heads(graph, sight) for sight in dict.fromkeys(sights)}
    turned = _turned_in_windows(graph, model, position) or rotation
    shape = ("B", config.key_value_count, "C", config.head_width)
    for index, layer in enumerate(model.decoder):
        assert isinstance(layer, DecoderLayer)
        name = f"decoder.{index}"
        around = _SelfAttention(attention, layer, roundings.other(f"{name}.attention.output"))
        caches = [graph.input(f"{kind}{index}", np.float32, shape) for kind in ("key", "value")]
        around.bias, around.start, around.caches = biases[sights[index]], start, caches
        around.rotation = turned if config.slides(index) else rotation
        before = hidden
        hidden = _residual(
            graph, hidden, layer.around_attention, roundings, f"{name}.attention.input", around
        )
        for kind, written in zip(("key", "value"), around.written, strict=True):
            graph.output(f"new_{kind}{index}", written, np.float32, shape)
        if layer.parallel:
            hidden = graph.residual(hidden, _widening(graph, before, layer, roundings, name))
            continue
        if config.encoder_layers:
            of_source = ("B", config.key_value_count, "S", config.head_width)
            source = [
                graph.input(f"cross_{kind}{index}", np.float32, of_source)
                for kind in ("key", "value")
            ]
            cross = _CrossAttention(
                attention, layer, source, real, roundings.other(f"{name}.cross.output")
            )
            if not roundings.by_row:
                cross.grid = roundings.grid(f"{name}.cross").query
            hidden = _residual(
                graph, hidden, layer.around_cross, roundings, f"{name}.cross.query", cross
            )
        hidden = _widened(graph, hidden, layer, roundings, name)
    hidden = graph.norm(hidden, model.decoder_norm, final.shrink)
    every = ["B", slots, config.hidden_size]
    if roundings.by_row:
        graph.output("hidden", hidden, np.float32, every)
    else:
        graph.output("hidden", graph.rounded(hidden, final).integers, np.uint8, every)
    return graph.model()


def _ones(config: TransformerConfig) -> NDArray[np.float32]:
    """Return the divisor of an activation that no linear layer reads."""
    return np.ones(config.hidden_size, np.float32)


def _further_starts(graph: Graph, positions: StartVectors, position: str, reach: str) -> str:
    """Return what is added to the embeddings of start symbols before the first."""
    one, zero = (graph.constant(np.array(value, np.int64)) for value in (1, 0))
    back = graph.add("Sub", graph.add("Sub", reach, position), one)
    return graph.table(graph.add("Max", back, zero), positions.further_start.weight)


def _sights(graph: Graph, model: Transformer, bias: str, position: str, start: str) -> list[str]:
    """Return what is added to the scores of each decoder layer: [A, 1 or H, N, C].

    It is `bias`, unless attention depends on how far apart slots are (`model.distance`).
    """
    config = model.config
    if not config.by_distance:
        return [bias] * config.decoder_layers
    own = graph.add("Cast", graph.shaped(position, 0, 1, -1, 1), to=TensorProto.FLOAT)
    places = graph.input("place", np.float32, ["B", 1, "C", 1])
    places = graph.add("TensorScatter", places, own, start, axis=2)
    graph.output("new_place", places, np.float32, ["B", 1, "C", 1])
    distance = graph.add("Sub", own, graph.add("Transpose", places, perm=[0, 1, 3, 2]))
    if isinstance(model.position, RelativePositions):
        whole = graph.add("Cast", distance, to=TensorProto.INT64)
        learned = _learned(graph, model.position.bias, whole)
        return [graph.add("Add", learned, bias)] * config.decoder_layers
    near = graph.add(
        "Less", distance, graph.constant(np.array(config.attention_window, np.float32))
    )
    within = graph.add("Where", near, bias, graph.constant(np.array(LOWEST, np.float32)))
    return [within if config.slides(layer) else bias for layer in range(config.decoder_layers)]


def _learned(graph: Graph, bias: RelativeBias, distance: str) -> str:
    """Return the learned number of each head for int64 distances [A, 1, N, C]: [A, H, N, C].

    A table holds those of all distances that the model tells apart.
    """
    furthest = bias.furthest
    every = torch.arange(-furthest, furthest + 1)[None, None]
    table = graph.constant(floats(bias(None, every)[0, :, 0].T))
    ends = (graph.constant(np.array(end, np.int64)) for end in (furthest, -furthest))
    row = graph.add("Max", graph.add("Min", distance, next(ends)), next(ends))
    row = graph.add("Add", row, graph.constant(np.array(furthest, np.int64)))
    rows = graph.add("Gather", table, graph.add("Squeeze", row, graph.constant(np.array([1]))))
    return graph.add("Transpose", rows, perm=[0, 3, 1, 2])


def _turned_in_windows(graph: Graph, model: Transformer, position: str) -> _Rotation | None:
    """Return the rotation of layers with a sliding window, where they have one of their own."""
    if model.config.window_rotary_base is None:
        return None
    assert isinstance(model.position, RotaryPositions)
    return _Rotation(graph, model.position.within_window(_every(model.config)), position)


def _every(config: TransformerConfig) -> Tensor:
    """Return all positions that a slot may have [1, P]."""
    return torch.arange(config.max_positions + config.max_group_size + 1)[None]


class _Rotation:
    """Rotations of queries and keys by the `position` [B, N] of their slots."""

    def __init__(self, graph: Graph, every: Rotation, position: str) -> None:
        """`every` are the rotations of all positions: row p is that of position p."""
        self.cosine, self.sine = (graph.constant(floats(part[0, 0])) for part in every)
        count = every[0].shape[2]
        last, first = (graph.constant(np.array(n, np.int64)) for n in (count - 1, 0))
        self.row = graph.add("Max", graph.add("Min", position, last), first)

    def __call__(self, graph: Graph, rows: str, heads: int) -> str:
        """Return rows [B, N, H E], each of their heads rotated."""
        parts = rows, self.row, self.cosine, self.sine
        return graph.add("RotaryEmbedding", *parts, domain="com.microsoft", num_heads=heads)


class Attention:
    """Attention of several queries over keys and values, rounded.

    Every query gets the bits that `SingleAttention` gives it alone, whatever is computed with it.

    ONNX Runtime's operator multiplies queries with keys and weights with values, head by head. It
    sums a product of several rows in one order whatever their number, and whatever is masked behind
    the last visible slot; a product of one row it sums in another. A last bit that differs changes
    a rounded integer once in a while, and now and then a token.
    """

    def __init__(self, graph: Graph, config: TransformerConfig, alone: str = "") -> None:
        """`alone` names rows [B, N, D] where N may be 1: a single query is then read twice."""
        self._config, self._wide, self._count = config, "", ""
        if alone:
            count = graph.add("Shape", alone, start=0, end=2)
            count = graph.add("Max", count, graph.constant(np.array([1, 2])))
            self._wide = graph.add("Concat", count, graph.constant(np.array([1])), axis=0)
            self._count = graph.add("Shape", alone, start=1, end=2)

    @property
    def _shared(self) -> int:
        """The number of queries that each head of keys and values serves."""
        return self._config.heads // self._config.key_value_count

    def of_heads(self, graph: Graph, bias: str) -> str:
        """Return the bias [A, 1, N, C] as queries need it: repeated where a row of theirs is."""
        if self._shared == 1 and not self._wide:
            return bias
        if self._shared == 1:
            one = graph.constant(np.array([1]))
            count = graph.part(self._wide, 1, 2, axis=0)
            return graph.add("Expand", bias, graph.add("Concat", one, one, count, one, axis=0))
        wide = graph.add("Unsqueeze", bias, graph.constant(np.array([3])))
        every = graph.add("Expand", wide, graph.constant(np.array([1, 1, 1, self._shared, 1])))
        room = graph.add("Shape", bias, start=3)
        front = graph.constant(np.array([0, 1, -1]))
        return graph.add("Reshape", every, graph.add("Concat", front, room, axis=0))

    def heads(self, graph: Graph, rows: str) -> str:
        """Return keys or values [B, N, G E] as [B, G, N, E]."""
        split = graph.shaped(rows, 0, 0, self._config.key_value_count, self._config.head_width)
        return graph.add("Transpose", split, perm=[0, 2, 1, 3])

    def among(
        self, graph: Graph, query: str, pair: Sequence[str], inner: Rounding, masks: Masks
    ) -> Rows:
        """Attend to other rows; `pair` is keys and values, [B, C, D] or [B, H, C, E]."""
        if self._shared > 1:  # several rows, whatever N is
            query = graph.shaped(
                query, 0, -1, self._config.key_value_count * self._config.head_width
            )
            attended = self._attended(graph, query, pair, masks)
            together = graph.shaped(attended, 0, -1, self._config.heads * self._config.head_width)
            return graph.rounded(together, inner)
        if self._wide:
            query = graph.add("Expand", query, self._wide)
        attended = self._attended(graph, query, pair, masks)
        if self._wide and inner.by_row:
            first, axis = graph.constant(np.array([0])), graph.constant(np.array([1]))
            return graph.rounded(graph.add("Slice", attended, first, self._count, axis), inner)
        rows = graph.rounded(attended, inner)
        if not self._wide:
            return rows
        first, axis = graph.constant(np.array([0])), graph.constant(np.array([1]))
        return rows._replace(integers=graph.add("Slice", rows.integers, first, self._count, axis))

    def over(
        self, graph: Graph, query: str, pair: Sequence[str], inner: Rounding, source: OfSource
    ) -> Rows:
        """Attend to the source, by queries that are `far(source.grid)` too large."""
        less = np.zeros(3 * self._config.hidden_size, np.float32)
        less[: self._config.hidden_size] = -far(source.grid)
        attended = self._attended(
            graph, query, pair, Masks(real=source.real), graph.constant(less), scale=1.0
        )
        return graph.rounded(attended, inner)

    def _attended(
        self,
        graph: Graph,
        query: str,
        pair: Sequence[str],
        masks: Masks,
        added: str = "",
        scale: float = 0.0,
    ) -> str:
        """`added` is added to queries; `scale` multiplies scores, 0 for one over the root of E.

        What is masked gets the lowest score there is, so that it weighs nothing.
        """
        if self._config.attention_cap is not None:
            return self._capped(graph, query, pair, masks.bias, self._config.attention_cap)
        return graph.add(
            "MultiHeadAttention",
            query,
            *pair,
            added,
            masks.real,
            masks.bias,
            domain="com.microsoft",
            num_heads=self._config.key_value_count,
            mask_filter_value=LOWEST,
            scale=scale,
        )

    def _capped(self, graph: Graph, query: str, pair: Sequence[str], bias: str, cap: float) -> str:
        """Attend with scores between `-cap` and `cap`, as `model.attention.Capped` does.

        The operators are those inside MultiHeadAttention, which has no place for a cap.
        """
        key, value = pair
        share = 1 / (math.sqrt(self._config.head_width) * cap)
        rows = self.heads(graph, query)
        scores = graph.add("FusedMatMul", rows, key, domain=MICROSOFT, transB=1, alpha=share)
        limit = graph.constant(np.array(cap, np.float32))
        capped = graph.add("Mul", graph.add("Tanh", scores), limit)
        weights = graph.add("Softmax", graph.add("Add", capped, bias), axis=-1)
        mixed = graph.add("Transpose", graph.add("MatMul", weights, value), perm=[0, 2, 1, 3])
        return graph.shaped(mixed, 0, 0, self._config.key_value_count * self._config.head_width)


class SingleAttention(Attention):
    """The attention of a single query: the bits of `Attention`, without the copies it makes.

    A factor that is not 1 makes ONNX Runtime sum a product of one row as it sums those of several,
    but copies keys or values before. Over the source no key is copied: there, queries and keys are
    rounded so that sums of their products are exact in float32, and their order makes no
    difference (`ranges.Grid`).
    """

    def __init__(self, graph: Graph, config: TransformerConfig, real: str) -> None:
        super().__init__(graph, config)
        self._bias = ""
        if real:
            masked = graph.constant(np.array([LOWEST, 0], np.float32))
            shape = graph.constant(np.array([1, 2]))
            self._bias = graph.add("Unsqueeze", graph.add("Gather", masked, real), shape)

    def heads(self, graph: Graph, rows: str) -> str:
        """Return rows [B, 1, D] as [B, H, 1, E], which is the same memory."""
        return graph.shaped(rows, 0, self._config.heads, 1, self._config.head_width)

    def among(
        self, graph: Graph, query: str, pair: Sequence[str], inner: Rounding, masks: Masks
    ) -> Rows:
        """Attend to other slots; `pair` is keys and values [B, H, C, E]."""
        root = np.float32(1) / np.sqrt(np.float32(self._config.head_width))
        return self._weighed(graph, query, pair, inner, masks.bias, float(root))

    def over(
        self, graph: Graph, query: str, pair: Sequence[str], inner: Rounding, source: OfSource
    ) -> Rows:
        """Attend to the source, by queries that are `far(source.grid)` too large."""
        shift = graph.constant(np.array(far(source.grid), np.float32))
        return self._weighed(graph, graph.add("Sub", query, shift), pair, inner, self._bias, 1.0)

    def _weighed(
        self,
        graph: Graph,
        query: str,
        pair: Sequence[str],
        inner: Rounding,
        bias: str,
        scale: float,
    ) -> Rows:
        key, value = pair
        scores = graph.add(
            "FusedMatMul",
            self.heads(graph, query),
            key,
            domain="com.microsoft",
            transB=1,
            alpha=scale,
        )
        weights = graph.add("Softmax", graph.add("Add", scores, bias), axis=-1)
        mixed = graph.add("FusedMatMul", weights, value, domain="com.microsoft", alpha=HALF)
        rows = graph.shaped(mixed, 0, 1, self._config.hidden_size)
        halves = graph.rounded(rows, inner._replace(step=HALF * inner.step))
        return graph.known(inner, halves.integers)


class Masks(NamedTuple):
    """Masks of attention: `real` int32 [B, C] and `bias` [1 or B, 1 or H, N, C], or neither.

    `real` is 0 for masked entries; `bias` is added to scores, the lowest number there is if masked.
    """

    real: str = ""
    bias: str = ""


class OfSource(NamedTuple):
    """The source of cross-attention: which tokens are `real`, and the `grid` of its queries."""

    real: str
    grid: float


MICROSOFT = "com.microsoft"
"""The domain of the operators that only ONNX Runtime has."""

HALF = 0.5
"""A factor that is not 1, and by which float32 numbers are multiplied exactly."""


def far(grid: float) -> float:
    """Return the number to which float32 adds only multiples of `grid`, a power of two.

    Adding and subtracting it rounds, in one pass. It is the middle of the numbers whose last bit is
    worth `grid`.
    """
    return 1.5 * 2**23 * grid


class _SelfAttention:
    """Self-attention: among `real` rows, or over the `caches` as far as `bias` allows."""

    def __init__(
        self, attention: Attention, layer: EncoderLayer | DecoderLayer, inner: Rounding
    ) -> None:
        self._attention, self._layer, self._inner = attention, layer.attention, inner
        self.real = self.bias = self.start = ""
        self.caches: list[str] = []
        self.written: list[str] = []
        self.rotation: _Rotation | None = None

    def __call__(self, graph: Graph, rows: Rows, rounding: Rounding) -> str:
        if rounding.by_row:
            query, *parts = self._of_any_layout(graph, rows, rounding)
        else:
            mixed = graph.linear(rows, self._layer.input, rounding)
            query, *parts = graph.many("Split", mixed, outputs=3, axis=-1, num_outputs=3)
        if self.caches:
            news = [self._attention.heads(graph, part) for part in parts]
            pairs = zip(self.caches, news, strict=True)
            parts = [
                graph.add("TensorScatter", cache, new, self.start, axis=2) for cache, new in pairs
            ]
            self.written = parts
        masks = Masks(self.real, self.bias)
        attended = self._attention.among(graph, query, parts, self._inner, masks)
        if not rounding.by_row:
            return graph.linear(attended, self._layer.output, self._inner)
        return graph.linear(
            attended, _output_by_group(self._layer.output, *self._heads), self._inner
        )

    @property
    def _heads(self) -> tuple[int, int]:
        """The number of heads of keys and values, and the width of a head."""
        width = self._layer.width
        return self._layer.sizes[1] // width, width

    def _of_any_layout(self, graph: Graph, rows: Rows, rounding: Rounding) -> list[str]:
        """Return queries, keys and values: normalised and rotated, where the model does so.

        Query heads are ordered so that those of all groups of keys follow each other.
        """
        layer, (groups, width) = self._layer, self._heads
        mixed = graph.linear(rows, _input_by_group(layer, groups), rounding)
        sizes = graph.constant(np.array(layer.sizes))
        parts = graph.many("Split", mixed, sizes, outputs=3, axis=-1)
        for index, norm in enumerate((layer.query_norm, layer.key_norm)):
            if norm is not None and layer.norm_first:
                order = _query_order(layer, groups) if index == 0 else slice(None)
                weight = graph.constant(floats(norm.weight[order]))
                parts[index] = graph.rms(parts[index], weight, norm.eps)
            elif norm is not None:
                heads = graph.shaped(parts[index], 0, 0, -1, width)
                normed = graph.norm(heads, norm, np.ones(width, np.float32))
                parts[index] = graph.shaped(normed, 0, 0, layer.sizes[index])
            if self.rotation is not None:
                count = layer.sizes[index] // width
                parts[index] = self.rotation(graph, parts[index], count)
        return parts


def _input_by_group(layer: SelfAttention, groups: int) -> nn.Linear:
    """Return the input layer with the query heads of one kind after each other.

    The heads h r + 0, h r + 1 ... of queries read the head h of keys and values. Here those with
    the same remainder stand together, in the order of the keys they read.
    """
    weight, bias = layer.input.weight, layer.input.bias
    others = torch.arange(layer.sizes[0], sum(layer.sizes))
    order = torch.cat([_query_order(layer, groups), others])
    return linear_of(weight[order], None if bias is None else bias[order])


def _query_order(layer: SelfAttention, groups: int) -> Tensor:
    """Return the indices of the outputs of query heads in the order of `_input_by_group`."""
    queries = torch.arange(layer.sizes[0]).view(groups, -1, layer.width)
    return queries.transpose(0, 1).flatten()


def _output_by_group(layer: nn.Linear, groups: int, width: int) -> nn.Linear:
    """Return the output layer that reads heads in the order of `_input_by_group`."""
    order = torch.arange(layer.in_features).view(groups, -1, width).transpose(0, 1).flatten()
    return linear_of(layer.weight[:, order], layer.bias)


class _CrossAttention:
    """Attention over the source, whose keys and values were computed by the encoder graph."""

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
        self.grid = 1.0

    def __call__(self, graph: Graph, rows: Rows, rounding: Rounding) -> str:
        if rounding.by_row:
            query = graph.linear(rows, self._layer.query, rounding)
            masks = Masks(real=self._real)
            attended = self._attention.among(graph, query, self._source, self._inner, masks)
            return graph.linear(attended, self._layer.output, self._inner)
        root = 1 / math.sqrt(self._layer.width)
        shift = np.array(far(self.grid), np.float32)
        query = graph.product(rows, *_scaled(self._layer.query, rounding, root, shift))
        source = OfSource(self._real, self.grid)
        attended = self._attention.over(graph, query, self._source, self._inner, source)
        return graph.linear(attended, self._layer.output, self._inner)


class _FeedForward:
    """The feed-forward layer.

    Rounding to non-negative integers already cuts off negative activations, so ReLU needs no node.
    Where rows are rounded one by one, its wide channels are equalised: the layer that widens is
    divided, which passes through a gate and through ReLU.
    """

    def __init__(self, layer: FeedForward, roundings: Roundings, place: str) -> None:
        self._layer, self._widen = layer, layer.widen
        relu = isinstance(layer.activation, nn.ReLU)
        self._cuts = relu and not roundings.by_row
        if not roundings.by_row:
            self._inner = roundings.other(place, positive=self._cuts)
        else:
            self._inner = roundings.widened(place, linear=relu or layer.gate is not None)
            if not self._inner.block_bits:
                self._widen = divided(layer.widen, self._inner.shrink)

    def __call__(self, graph: Graph, rows: Rows, rounding: Rounding) -> str:
        layer = self._layer
        if layer.gate is not None:
            both = graph.linear(rows, side_by_side(layer.gate, self._widen), rounding)
            gate, wide = graph.many("Split", both, outputs=2, axis=-1, num_outputs=2)
            wide = graph.add("Mul", _activated(graph, gate, layer.activation), wide)
        else:
            wide = graph.linear(rows, self._widen, rounding)
            if not self._cuts:
                wide = _activated(graph, wide, layer.activation)
        return graph.linear(graph.rounded(wide, self._inner), self._layer.narrow, self._inner)


def _activated(graph: Graph, rows: str, activation: nn.Module) -> str:
    """Apply the nonlinearity of a feed-forward layer."""
    if isinstance(activation, nn.ReLU):
        return graph.add("Relu", rows)
    if isinstance(activation, nn.SiLU):
        return graph.add("QuickGelu", rows, domain="com.microsoft", alpha=1.0)
    assert isinstance(activation, nn.GELU)
    kind = "FastGelu" if activation.approximate == "tanh" else "Gelu"
    return graph.add(kind, rows, domain="com.microsoft")


def _widening(
    graph: Graph, hidden: str, layer: DecoderLayer, roundings: Roundings, name: str
) -> str:
    """Return what the feed-forward layer adds to states that attention reads as well."""
    rounding = roundings.normed(f"{name}.feedforward.widen", alike=True)
    feedforward = _FeedForward(layer.feedforward, roundings, f"{name}.feedforward.narrow")
    normed = graph.norm(hidden, layer.around_feedforward.norm, rounding.shrink)
    return feedforward(graph, graph.rounded(normed, rounding), rounding)


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
        output = sublayer(graph, rows, rounding)
        if around.output_norm is not None:
            output = graph.norm(
                output, around.output_norm, np.ones(len(rounding.shrink), np.float32)
            )
        return graph.residual(hidden, output)
    if around.of_output:
        output = sublayer(graph, graph.rounded(hidden, rounding), rounding)
        return graph.residual(hidden, graph.norm(output, around.norm, rounding.shrink))
    summed = graph.add("Add", hidden, sublayer(graph, graph.rounded(hidden, rounding), rounding))
    return graph.norm(summed, around.norm, rounding.shrink)


def _scaled(
    layer: nn.Linear, rounding: Rounding, factor: float, shift: NDArray[np.float32]
) -> tuple[Quantised, NDArray[np.float32]]:
    """Return weights and biases of a linear layer with outputs times `factor` plus `shift`."""
    weight = quantised(layer.weight, rounding.shrink)
    scale = weight.scale * np.float32(factor)
    return weight._replace(scale=scale), floats(layer.bias) * np.float32(factor) + shift
