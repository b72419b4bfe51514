"""The int8 network for steps of many rows: PyTorch calls oneDNN, whose products use the CPU's matrix tiles (AMX).

From some twenty rows on they are two to three times as fast as those of ONNX Runtime, which are faster below
(`benchmarks/products.py`, docs/log.md). All is rounded where and as the graphs of `int8_graphs.py` round it, so that
the two differ by float32 sums only, and where such a sum is rounded to another integer.
`tests/equivalence/test_int8_onednn.py` holds one to the other.

Shapes: B sentences, S source tokens, N new slots, M slots that are seen, R = B N rows, H heads, D = H E, I inputs and
O outputs of a product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from multistride.device import multiplies_tiles
from multistride.engines.int8_memory import EncodedSource, KeysValues
from multistride.engines.int8_output import pickable_output
from multistride.engines.int8_ranges import FINAL, Rounding, Roundings
from multistride.engines.onnx_graph import Quantised, floats, quantised
from multistride.model.layers import FeedForward, PositionEmbedding, Residual
from multistride.model.transformer import DecoderLayer, EncoderLayer, Transformer


def onednn_runs_here() -> bool:
    """Whether the CPU has matrix tiles for 8-bit integers, and PyTorch the operator that uses them."""
    return multiplies_tiles() and hasattr(torch.ops.onednn, "qlinear_pointwise")


class Product:
    """Rows in 8 bits times a matrix in 8 bits."""

    def __init__(
        self,
        matrix: Quantised,
        bias: Float[np.ndarray, "O"],
        read: Rounding,
        written: Rounding | None = None,
        activation: str = "none",
        factor: Float[np.ndarray, "O"] | None = None,
    ) -> None:
        """`read` is how the rows were rounded. The result is float32, or rounded as `written` says.

        `factor` multiplies the result, output by output.
        """
        scale = matrix.scale if factor is None else matrix.scale * factor
        bias = bias if factor is None else bias * factor
        outputs_first = torch.from_numpy(np.ascontiguousarray(matrix.integers.T))
        self._matrix = torch.ops.onednn.qlinear_prepack(outputs_first, None)
        self._scale, self._bias = (torch.from_numpy(each.astype(np.float32)) for each in (scale, bias))
        self._zero = torch.zeros(len(scale), dtype=torch.int32)
        self._read = read.step, -read.lowest
        self._written = (1.0, 0, torch.float32) if written is None else (written.step, -written.lowest, torch.uint8)
        self._activation = activation

    def __call__(self, rows: UInt8[Tensor, "R I"]) -> Float[Tensor, "R O"] | UInt8[Tensor, "R O"]:
        """The product, biased and activated."""
        matrix = self._matrix, self._scale, self._zero, self._bias
        result: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows, *self._read, *matrix, *self._written, self._activation, [], "none"
        )
        return result

    def added(self, rows: UInt8[Tensor, "R I"], hidden: Float[Tensor, "R O"]) -> None:
        """Add the product to `hidden`."""
        matrix = self._matrix, self._scale, self._zero, hidden, self._bias
        torch.ops.onednn.qlinear_pointwise.binary(
            rows, *self._read, *matrix, *self._written, 1.0, 0, "sum", 1.0, "none", [], "none"
        )


class Rounder:
    """Rounds rows to 8 bits, after layer normalisation where there is one."""

    def __init__(self, norm: nn.Module | None, rounding: Rounding) -> None:
        # What makes a number an integer is folded into the normalisation; with a half added, cutting off rounds.
        self._factor, shift = 1 / rounding.step, 0.5 - rounding.lowest
        self._shift = torch.tensor(shift)
        self._norm: tuple[tuple[int, ...], Tensor, Tensor, float] | None = None
        if isinstance(norm, nn.LayerNorm):
            scale = torch.from_numpy(self._factor / rounding.shrink).float()
            weight, bias = (part.detach().float() * scale for part in (norm.weight, norm.bias))
            self._norm = tuple(norm.normalized_shape), weight, bias + shift, norm.eps

    def __call__(self, rows: Float[Tensor, "*shape D"]) -> UInt8[Tensor, "*shape D"]:
        """The rows in 8 bits."""
        if self._norm is None:
            scaled = torch.add(self._shift, rows, alpha=self._factor)
        else:
            scaled = functional.layer_norm(rows, *self._norm)
        return scaled.clamp_(0, 255.5).to(torch.uint8)


class _Around:
    """A sublayer's place in the residual stream, before or after which is layer normalisation."""

    def __init__(self, around: Residual, roundings: Roundings, place: str) -> None:
        self.rounding = roundings.normed(place, alike=around.before)
        self._read = Rounder(around.norm if around.before else None, self.rounding)
        self._after = None if around.before else around.norm

    def __call__(self, hidden: Float[Tensor, "R D"], sublayer: Callable[[Tensor, Tensor], None]) -> Tensor:
        """`sublayer` adds to its second argument what it makes of the first."""
        sublayer(self._read(hidden), hidden)
        normed: Tensor = hidden if self._after is None else self._after(hidden)
        return normed


class _Attention:
    """What queries find among keys and values, and the product after it."""

    def __init__(self, heads: int, output: nn.Linear, inner: Rounding) -> None:
        self.heads = heads
        self._round = Rounder(None, inner)
        self._output = _linear(output, inner)

    def split(self, rows: Float[Tensor, "R D"], sentences: int) -> Float[Tensor, "B H N E"]:
        """Rows as heads."""
        width = rows.shape[1] // self.heads
        return rows.view(sentences, -1, self.heads, width).transpose(1, 2)

    def add(
        self,
        query: Float[Tensor, "B H N E"],
        seen: KeysValues,
        bias: Float[Tensor, "#B 1 #N M"] | None,
        hidden: Float[Tensor, "R D"],
    ) -> None:
        """Attend (arXiv 1706.03762, equation 1; the query is scaled already) and add the result to `hidden`."""
        scores = torch.matmul(query, seen[0].transpose(2, 3))
        if bias is not None:
            scores += bias
        found = torch.matmul(scores.softmax(dim=-1), seen[1])
        self._output.added(self._round(found.transpose(1, 2)).reshape(hidden.shape), hidden)


class _SelfAttention:
    def __init__(self, layer: EncoderLayer | DecoderLayer, heads: int, read: Rounding, inner: Rounding) -> None:
        self._attention = _Attention(heads, layer.attention.output, inner)
        width = layer.attention.output.in_features
        factor = np.ones(3 * width, np.float32)
        factor[:width] = (width // heads) ** -0.5
        self._input = _linear(layer.attention.input, read, factor)

    def __call__(
        self,
        rows: UInt8[Tensor, "R D"],
        hidden: Float[Tensor, "R D"],
        sentences: int,
        bias: Tensor | None,
        cache: KeysValues | None = None,
        length: int = 0,
    ) -> None:
        """Attend to the rows themselves or, once their keys and values are written there, to the `cache`."""
        query, *parts = (self._attention.split(part, sentences) for part in self._input(rows).chunk(3, dim=1))
        if cache is not None:
            end = length + query.shape[2]
            for whole, part in zip(cache, parts, strict=True):
                whole[:, :, length:end] = part
            parts = [whole[:, :, :end] for whole in cache]
        self._attention.add(query, (parts[0], parts[1]), bias, hidden)


class _CrossAttention:
    def __init__(self, layer: DecoderLayer, heads: int, read: Rounding, inner: Rounding) -> None:
        self._attention = _Attention(heads, layer.cross.output, inner)
        width = layer.cross.output.in_features
        self._query = _linear(layer.cross.query, read, np.full(width, (width // heads) ** -0.5, np.float32))

    def __call__(
        self, rows: UInt8[Tensor, "R D"], hidden: Float[Tensor, "R D"], source: KeysValues, bias: Tensor | None
    ) -> None:
        query = self._attention.split(self._query(rows), len(source[0]))
        self._attention.add(query, source, bias, hidden)


class _Widened:
    """The feed-forward layer."""

    def __init__(self, layer: EncoderLayer | DecoderLayer, roundings: Roundings, name: str) -> None:
        feedforward: FeedForward = layer.feedforward
        self._around = _Around(layer.around_feedforward, roundings, f"{name}.feedforward.widen")
        cuts = isinstance(feedforward.activation, nn.ReLU)
        inner = roundings.other(f"{name}.feedforward.narrow", positive=cuts)
        matrix = quantised(feedforward.widen.weight, self._around.rounding.shrink)
        bias, activation = floats(feedforward.widen.bias), "relu" if cuts else "gelu"
        self._widen = Product(matrix, bias, self._around.rounding, inner, activation)
        self._narrow = _linear(feedforward.narrow, inner)

    def __call__(self, hidden: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
        return self._around(hidden, lambda rows, stream: self._narrow.added(self._widen(rows), stream))


class _EncoderLayer:
    def __init__(self, layer: EncoderLayer, heads: int, roundings: Roundings, name: str) -> None:
        self._around = _Around(layer.around_attention, roundings, f"{name}.attention.input")
        inner = roundings.other(f"{name}.attention.output")
        self._attention = _SelfAttention(layer, heads, self._around.rounding, inner)
        self._widened = _Widened(layer, roundings, name)

    def __call__(self, hidden: Float[Tensor, "R D"], sentences: int, bias: Tensor | None) -> Float[Tensor, "R D"]:
        hidden = self._around(hidden, lambda rows, stream: self._attention(rows, stream, sentences, bias))
        return self._widened(hidden)


class _DecoderLayer:
    def __init__(self, layer: DecoderLayer, heads: int, roundings: Roundings, name: str, *, source: bool) -> None:
        self._around = _Around(layer.around_attention, roundings, f"{name}.attention.input")
        inner = roundings.other(f"{name}.attention.output")
        self._attention = _SelfAttention(layer, heads, self._around.rounding, inner)
        if source:
            self._around_cross = _Around(layer.around_cross, roundings, f"{name}.cross.query")
            inner = roundings.other(f"{name}.cross.output")
            self._cross = _CrossAttention(layer, heads, self._around_cross.rounding, inner)
        self._widened = _Widened(layer, roundings, name)

    def __call__(
        self,
        hidden: Float[Tensor, "R D"],
        cache: KeysValues,
        length: int,
        bias: Tensor | None,
        source: KeysValues | None,
        source_bias: Tensor | None,
    ) -> Float[Tensor, "R D"]:
        count = len(cache[0])
        hidden = self._around(hidden, lambda rows, to: self._attention(rows, to, count, bias, cache, length))
        if source is not None:
            hidden = self._around_cross(hidden, lambda rows, to: self._cross(rows, to, source, source_bias))
        return self._widened(hidden)


class _Embedding:
    """Rows of a table that is kept in 8 bits, as the graphs keep it, and vectors of places."""

    def __init__(self, table: Tensor, factor: float, model: Transformer) -> None:
        matrix = quantised(table)
        self._integers = torch.from_numpy(np.ascontiguousarray(matrix.integers.T))
        self._scale = torch.from_numpy(matrix.scale * np.float32(factor))[:, None]
        assert isinstance(model.position, PositionEmbedding)
        self._positions = model.position.table.detach().float()

    def __call__(self, token: Int[Tensor, "B N"], position: Int[Tensor, "#B N"]) -> Float[Tensor, "B N D"]:
        rows = self._integers[token].float() * self._scale[token]
        return rows + self._positions[position.clamp(max=len(self._positions) - 1)]


class ManyRows:
    """Encoder and decoder of a model, for many rows at once."""

    def __init__(self, model: Transformer, roundings: Roundings) -> None:
        """Reads the weights of `model`, and `roundings` that were made from it."""
        config = model.config
        self._heads = config.heads
        factor = math.sqrt(config.hidden_size)
        self._target = _Embedding(model.target_embedding.weight, factor, model)
        self._source = self._target
        if config.encoder_layers and not config.tie_embeddings:
            self._source = _Embedding(model.source_embedding.weight, factor, model)
        self._reach = model.reach.beyond_one.weight.detach().float()
        self._encoder = [
            _EncoderLayer(layer, config.heads, roundings, f"encoder.{index}")
            for index, layer in enumerate(model.encoder)
            if isinstance(layer, EncoderLayer)
        ]
        decoder = [layer for layer in model.decoder if isinstance(layer, DecoderLayer)]
        self._decoder = [
            _DecoderLayer(layer, config.heads, roundings, f"decoder.{index}", source=bool(self._encoder))
            for index, layer in enumerate(decoder)
        ]
        final = roundings.normed(FINAL, alike=config.norm == "pre")
        self._final = Rounder(model.decoder_norm, final)
        output = pickable_output(model, final)
        self._output = Product(output.weight, output.bias, final)
        if self._encoder:
            places = [f"decoder.{index}.cross.key_value" for index in range(len(decoder))]
            rounding = roundings.normed(*places, alike=config.norm == "pre")
            self._encoded = Rounder(model.encoder_norm, rounding)
            self._keys_values = [_linear(layer.cross.key_value, rounding) for layer in decoder]

    @torch.inference_mode()
    def encode(
        self, source: Int[Tensor, "B S"], bias: Float[Tensor, "B 1 1 S"] | None
    ) -> list[Float[Tensor, "B H S E"]]:
        """The keys and values of each decoder layer: key0, value0, key1 ...; `bias` hides padding, if any."""
        sentences, length = source.shape
        hidden = self._source(source, torch.arange(length)[None]).flatten(0, 1)
        for layer in self._encoder:
            hidden = layer(hidden, sentences, bias)
        rows = self._encoded(hidden)
        parts: list[Tensor] = []
        for product in self._keys_values:
            both = product(rows).view(sentences, length, 2, self._heads, -1)
            parts += [part.transpose(1, 2).contiguous() for part in both.unbind(2)]
        return parts

    @torch.inference_mode()
    def decode(
        self,
        token: Int[Tensor, "B N"],
        position: Int[Tensor, "#B N"],
        reach: Int[Tensor, "#B N"],
        caches: Sequence[KeysValues],
        length: int,
        bias: Float[Tensor, "B 1 N M"] | None,
        sources: Sequence[KeysValues],
        source_bias: Float[Tensor, "B 1 1 S"] | None,
    ) -> UInt8[Tensor, "B N D"]:
        """Final hidden states in 8 bits; the slots' keys and values go into the `caches` from place `length` on."""
        stream = self._target(token, position) + self._reach[reach - 1]
        hidden = stream.flatten(0, 1)
        for index, layer in enumerate(self._decoder):
            source = sources[index] if sources else None
            hidden = layer(hidden, caches[index], length, bias, source, source_bias)
        return self._final(hidden).view(*token.shape, -1)

    def decode_even(
        self, tokens: Int[np.ndarray, "B N"], caches: Sequence[KeysValues], length: int, source: EncodedSource
    ) -> UInt8[Tensor, "B N D"]:
        """The same for a group of the size of all before it, whose slots see all that is there."""
        size = tokens.shape[1]
        position, reach = torch.arange(length, length + size)[None], torch.full((1, size), size)
        keys_values = source.keys_values
        return self.decode(torch.from_numpy(tokens), position, reach, caches, length, None, keys_values, source.bias)

    @torch.inference_mode()
    def logits(self, hidden: UInt8[Tensor, "B N D"]) -> Float[Tensor, "B N W"]:
        """The logits of all entries of the vocabulary, as `int8_output.pickable_output` has them."""
        return self._output(hidden.flatten(0, 1)).view(*hidden.shape[:2], -1)


def _linear(layer: nn.Linear, read: Rounding, factor: Float[np.ndarray, "O"] | None = None) -> Product:
    return Product(quantised(layer.weight, read.shrink), floats(layer.bias), read, factor=factor)
