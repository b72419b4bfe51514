"""The weights of a converted model as the native kernels read them (`converted.c`).

They are those of the graphs, rounded in blocks (`blocks.py`) or with one scale for each output, in
panels of 64 outputs, in each the inputs by fours. A matrix that came in 4 bits keeps them
(`steps.py`).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from multistride.engines.int8.blocks import Blocked
from multistride.engines.int8.linears import divided, side_by_side
from multistride.engines.int8.native.library import PANEL, Arrays
from multistride.engines.int8.native.pack_matrix import packed_markov
from multistride.engines.int8.native.stored import named
from multistride.engines.int8.onnx_graph import Quantised, Rounding, floats, quantised, stored
from multistride.engines.int8.output import pickable_output
from multistride.engines.int8.ranges import Roundings
from multistride.engines.int8.steps import Stepped, stepped
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


def packed_converted(model: Transformer, roundings: Roundings, final: Rounding) -> Arrays:
    """Return all arrays of a model by name, for `native.converted`."""
    arrays = named("decoder", _decoder(model, roundings, final))
    if model.config.encoder_layers:
        arrays |= named("encoder", _encoder(model, roundings))
    output, cap = pickable_output(model, final), model.config.output_cap
    arrays |= _packed("picked", output.weight, None if cap else output.bias)
    if cap is not None:
        arrays["picked.barred"] = output.bias
    return arrays if model.markov is None else arrays | named("markov", packed_markov(model.markov))


def _decoder(model: Transformer, roundings: Roundings, final: Rounding) -> Arrays:
    beyond_one, position = floats(model.reach.beyond_one.weight), model.position
    arrays = _table(model.target_embedding, model.scale) | _rotations(model)
    arrays["reaches"] = np.concatenate([np.zeros_like(beyond_one[:1]), beyond_one])
    if isinstance(position, StartVectors):
        arrays["starts"] = floats(position.further_start.weight)
    else:
        assert isinstance(position, PositionEmbedding)
        arrays["positions"] = floats(position.table)
    if isinstance(position, RelativePositions):
        arrays["distances"] = _distances(position.bias)
    arrays |= _norm("embedding_norm", model.target_embedding_norm)
    for index, layer in enumerate(model.decoder):
        assert isinstance(layer, DecoderLayer)
        name = f"decoder.{index}"
        parts = _layer(layer, roundings, name)
        if model.config.encoder_layers:
            reads = roundings.normed(f"{name}.cross.query", alike=layer.around_cross.before)
            parts |= _around("cross", layer.around_cross, reads)
            parts |= _linear("query", layer.cross.query, reads)
            crossed = roundings.other(f"{name}.cross.output")
            parts |= _linear("cross_output", layer.cross.output, crossed)
        arrays |= named(f"layer{index}", parts)
    return arrays | _norm("final_norm", model.decoder_norm, final)


def _encoder(model: Transformer, roundings: Roundings) -> Arrays:
    table = model.target_embedding if model.config.tie_embeddings else model.source_embedding
    arrays, position = _table(table, model.scale), model.source_position or model.position
    if isinstance(model.position, RotaryPositions):
        arrays |= _rotations(model)
    elif isinstance(position, RelativeBias):
        arrays["distances"] = _distances(position)
    else:
        assert isinstance(position, PositionEmbedding)
        arrays["positions"] = floats(position.table)
    arrays |= _norm("embedding_norm", model.source_embedding_norm)
    for index, layer in enumerate(model.encoder):
        assert isinstance(layer, EncoderLayer)
        arrays |= named(f"layer{index}", _layer(layer, roundings, f"encoder.{index}"))
    readers = [f"decoder.{index}.cross.key_value" for index in range(len(model.decoder))]
    rounding = roundings.normed(*readers, alike=model.config.norm != "post")
    for index, layer in enumerate(model.decoder):
        assert isinstance(layer, DecoderLayer)
        arrays |= _linear(f"pair{index}", layer.cross.key_value, rounding)
    return arrays | _norm("final_norm", model.encoder_norm, rounding)


def _table(embedding: nn.Embedding, factor: float) -> Arrays:
    rows = quantised(embedding.weight)
    integers = np.ascontiguousarray(rows.integers.T)
    return {"embedding": integers, "embedding_scale": rows.scale * np.float32(factor)}


def _rotations(model: Transformer) -> Arrays:
    """Return cosines and sines of all positions, and those of layers with a base of their own."""
    position, config = model.position, model.config
    if not isinstance(position, RotaryPositions):
        return {}
    every = torch.arange(config.max_positions + config.max_group_size + 1)[None]
    found: dict[str, Rotation] = {"": position(every)}
    if config.window_rotary_base is not None:
        found["sliding_"] = position.within_window(every)
    return {
        f"{name}{kind}": floats(part[0, 0])
        for name, rotation in found.items()
        for kind, part in zip(("cosine", "sine"), rotation, strict=True)
    }


def _distances(bias: RelativeBias) -> Float[np.ndarray, "H F"]:
    """Return the number of each head for all distances that the model tells apart."""
    every = torch.arange(-bias.furthest, bias.furthest + 1)[None, None]
    return np.ascontiguousarray(floats(bias(None, every)[0, :, 0]))


def _layer(layer: EncoderLayer | DecoderLayer, roundings: Roundings, name: str) -> Arrays:
    """Return what layers of encoder and decoder have in common."""
    attention, around = layer.attention, layer.around_attention
    reads = roundings.normed(f"{name}.attention.input", alike=around.before)
    attended = roundings.other(f"{name}.attention.output")
    return {
        **_around("attention", around, reads),
        **_head_norm("query_norm", attention.query_norm),
        **_head_norm("key_norm", attention.key_norm),
        **_linear("input", attention.input, reads),
        **_linear("output", attention.output, attended),
        **_forward(layer.feedforward, layer.around_feedforward, roundings, name),
    }


def _forward(layer: FeedForward, around: Residual, roundings: Roundings, name: str) -> Arrays:
    reads = roundings.normed(f"{name}.feedforward.widen", alike=around.before)
    linear = isinstance(layer.activation, nn.ReLU) or layer.gate is not None
    inner = roundings.widened(f"{name}.feedforward.narrow", linear=linear)
    widen = layer.widen if inner.block_bits else divided(layer.widen, inner.shrink)
    return {
        **_around("forward", around, reads),
        **_linear("widen", widen if layer.gate is None else side_by_side(layer.gate, widen), reads),
        **_linear("narrow", layer.narrow, inner),
    }


def _around(name: str, residual: Residual, reads: Rounding) -> Arrays:
    """Return the normalisations around a sublayer, whose input is rounded by `reads`."""
    if residual.before:
        of_output = residual.output_norm or nn.Identity()
        before = _norm(f"{name}.before", residual.norm, reads)
        return before | _norm(f"{name}.of_output", of_output)
    return _norm(f"{name}.{'of_output' if residual.of_output else 'after'}", residual.norm)


def _head_norm(name: str, layer: nn.Module | None) -> Arrays:
    return {} if layer is None else _norm(name, layer)


def _norm(name: str, layer: nn.Module, rounding: Rounding | None = None) -> Arrays:
    """Return weight and, of a LayerNorm, bias, divided as the rounding of the output wants it."""
    shrink = np.float32(1) if rounding is None else rounding.shrink
    if isinstance(layer, nn.RMSNorm):
        return {f"{name}.weight": floats(layer.weight) / shrink}
    if not isinstance(layer, nn.LayerNorm):
        return {}
    parts = {"weight": layer.weight, "bias": layer.bias}
    return {f"{name}.{part}": floats(each) / shrink for part, each in parts.items()}


def _linear(name: str, layer: nn.Linear, rounding: Rounding) -> Arrays:
    bias = None if layer.bias is None else floats(layer.bias)
    if rounding.block_bits and (steps := stepped(layer.weight)) is not None:
        return _packed_steps(name, steps, bias)
    return _packed(name, stored(layer.weight, rounding), bias)


def _packed(name: str, weight: Quantised | Blocked, bias: Float[np.ndarray, "O"] | None) -> Arrays:
    """Return weights in panels of 64 outputs, in each the inputs by fours."""
    if isinstance(weight, Blocked):
        integers, scale = weight.packed.reshape(len(weight.scale), -1), weight.scale
    else:
        integers = (weight.integers.T.astype(np.int16) + 128).astype(np.uint8)
        scale = weight.scale[:, None]
    outputs, inputs = integers.shape
    panels = integers.reshape(outputs // PANEL, PANEL, inputs // 4, 4).transpose(0, 2, 1, 3)
    scales = scale.reshape(outputs // PANEL, PANEL, -1).transpose(0, 2, 1)
    arrays = {
        f"{name}.weights": np.ascontiguousarray(panels),
        f"{name}.scale": np.ascontiguousarray(scales, np.float32),
    }
    return arrays if bias is None else {**arrays, f"{name}.bias": bias.astype(np.float32)}


def _packed_steps(name: str, weight: Stepped, bias: Float[np.ndarray, "O"] | None) -> Arrays:
    """Return weights of 4 bits in panels of 64 outputs: the inputs by fours, the next four in the
    upper half of each byte.
    """
    outputs, inputs = weight.integers.shape
    fours = weight.integers.reshape(outputs // PANEL, PANEL, inputs // 8, 2, 4)
    halves = (fours[..., 0, :] | fours[..., 1, :] << 4).transpose(0, 2, 1, 3)
    arrays = {f"{name}.weights": np.ascontiguousarray(halves)}
    for part, numbers in (("step", weight.step), ("least", weight.least)):
        panels = numbers.reshape(outputs // PANEL, PANEL, -1).transpose(0, 2, 1)
        arrays[f"{name}.{part}"] = np.ascontiguousarray(panels)
    return arrays if bias is None else {**arrays, f"{name}.bias": bias.astype(np.float32)}
