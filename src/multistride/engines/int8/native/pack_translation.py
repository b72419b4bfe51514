"""The weights of a translation model as the native kernels read them.

They are those of the graphs (`graphs.py`, `output.py`, `chain.py`), in the order in which
`translation.c` multiplies (`pack_matrix.py`).

Shapes: O outputs and I inputs of a matrix, D hidden size, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from multistride.engines.int8.blocks import Blocked
from multistride.engines.int8.native.library import Arrays
from multistride.engines.int8.native.pack_matrix import matrix_arrays, packed_markov
from multistride.engines.int8.native.stored import named
from multistride.engines.int8.onnx_graph import Rounding, floats, quantised
from multistride.engines.int8.output import pickable_output
from multistride.engines.int8.ranges import Roundings
from multistride.model.layers import PositionEmbedding
from multistride.model.transformer import DecoderLayer, EncoderLayer, Transformer


def packed_translation(model: Transformer, roundings: Roundings, final: Rounding) -> Arrays:
    """Return all arrays of a model by name, for `native.translation`."""
    arrays = {
        **named("encoder", _encoder(model, roundings)),
        **named("decoder", _decoder(model, roundings, final)),
    }
    output = pickable_output(model, final)
    assert not isinstance(output.weight, Blocked)
    arrays |= named("picked", matrix_arrays(output.weight, final, output.bias))
    if model.markov is not None:
        arrays |= named("markov", packed_markov(model.markov))
    return arrays


def _encoder(model: Transformer, roundings: Roundings) -> Arrays:
    table = model.target_embedding if model.config.tie_embeddings else model.source_embedding
    arrays = _tables(table, model.source_position or model.position, model.scale)
    for index, layer in enumerate(model.encoder):
        assert isinstance(layer, EncoderLayer)
        arrays |= named(f"layer{index}", _layer(layer, roundings, f"encoder.{index}"))
    readers = [f"decoder.{index}.cross.key_value" for index in range(len(model.decoder))]
    rounding = roundings.normed(*readers, alike=True)
    arrays |= named("final", _norm(model.encoder_norm, rounding))
    for index, layer in enumerate(model.decoder):
        assert isinstance(layer, DecoderLayer)
        arrays |= named(f"pair{index}", _linear(layer.cross.key_value, rounding))
    return arrays


def _decoder(model: Transformer, roundings: Roundings, final: Rounding) -> Arrays:
    beyond_one = floats(model.reach.beyond_one.weight)
    arrays = _tables(model.target_embedding, model.position, model.scale)
    arrays["reaches"] = np.concatenate([np.zeros_like(beyond_one[:1]), beyond_one])
    for index, layer in enumerate(model.decoder):
        assert isinstance(layer, DecoderLayer)
        name = f"decoder.{index}"
        cross = roundings.normed(f"{name}.cross.query", alike=True)
        crossed = roundings.other(f"{name}.cross.output")
        parts = {
            **_layer(layer, roundings, name),
            **named("cross_norm", _norm(layer.around_cross.norm, cross)),
            **named("query", _linear(layer.cross.query, cross)),
            **named("cross_output", _linear(layer.cross.output, crossed)),
            "cross_unit": np.array([1 / crossed.step], np.float32),
        }
        arrays |= named(f"layer{index}", parts)
    return arrays | named("final", _norm(model.decoder_norm, final))


def _tables(embedding: nn.Embedding, positions: nn.Module, factor: float) -> Arrays:
    assert isinstance(positions, PositionEmbedding)
    rows = quantised(embedding.weight)
    return {
        "embedding": np.ascontiguousarray(rows.integers.T),
        "embedding_scale": rows.scale * np.float32(factor),
        "positions": floats(positions.table),
    }


def _layer(layer: EncoderLayer | DecoderLayer, roundings: Roundings, name: str) -> Arrays:
    """Return what layers of encoder and decoder have in common."""
    attention = roundings.normed(f"{name}.attention.input", alike=True)
    widen = roundings.normed(f"{name}.feedforward.widen", alike=True)
    attended = roundings.other(f"{name}.attention.output")
    cut = roundings.other(f"{name}.feedforward.narrow", positive=True)
    forward = layer.feedforward
    return {
        **named("attention_norm", _norm(layer.around_attention.norm, attention)),
        **named("input", _linear(layer.attention.input, attention)),
        **named("output", _linear(layer.attention.output, attended)),
        **named("feedforward_norm", _norm(layer.around_feedforward.norm, widen)),
        **named("widen", _linear(forward.widen, widen, unit=cut.step)),
        **named("narrow", _linear(forward.narrow, cut)),
        "attention_unit": np.array([1 / attended.step], np.float32),
    }


def _norm(layer: nn.Module, rounding: Rounding) -> Arrays:
    """Return a normalisation whose output is in the integers of `rounding`."""
    assert isinstance(layer, nn.LayerNorm)
    parts = (layer.weight, layer.bias)
    weight, bias = (floats(each) / rounding.shrink / np.float32(rounding.step) for each in parts)
    epsilon = np.array([layer.eps], np.float32)
    return {"weight": weight, "bias": bias - np.float32(rounding.lowest), "epsilon": epsilon}


def _linear(layer: nn.Linear, rounding: Rounding, unit: float = 1.0) -> Arrays:
    """Return a linear layer whose inputs are rounded by `rounding`, its outputs in `unit`s."""
    return matrix_arrays(
        quantised(layer.weight, rounding.shrink), rounding, floats(layer.bias), unit
    )
