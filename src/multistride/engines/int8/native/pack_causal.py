"""The weights of a converted causal model as the native kernels read them (`causal.c`).

They are those of the graphs, rounded in blocks (`blocks.py`), in panels of 64 outputs, in each the
blocks, and in a block the inputs by fours.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from multistride.engines.int8.blocks import Blocked, blocked
from multistride.engines.int8.native.library import PANEL
from multistride.engines.int8.native.stored import Arrays
from multistride.engines.int8.onnx_graph import Rounding, floats, quantised
from multistride.engines.int8.output import pickable_output
from multistride.model.layers import RotaryPositions
from multistride.model.transformer import DecoderLayer, Transformer


def packed_causal(model: Transformer, final: Rounding) -> Arrays:
    """Return all arrays of a model by name, for `native.causal`."""
    position, table = model.position, quantised(model.target_embedding.weight)
    assert isinstance(position, RotaryPositions)
    assert isinstance(model.decoder_norm, nn.RMSNorm)
    count = model.config.max_positions + model.config.max_group_size + 1
    cosine, sine = (floats(part[0, 0]) for part in position(torch.arange(count)[None]))
    beyond_one = floats(model.reach.beyond_one.weight)
    arrays: Arrays = {
        "embedding": np.ascontiguousarray(table.integers.T),
        "embedding_scale": table.scale * np.float32(model.scale),
        "starts": floats(position.further_start.weight),
        "reaches": np.concatenate([np.zeros_like(beyond_one[:1]), beyond_one]),
        "cosine": cosine,
        "sine": sine,
        "final_norm": floats(model.decoder_norm.weight),
    }
    for index, layer in enumerate(model.decoder):
        assert isinstance(layer, DecoderLayer)
        arrays |= {f"layer{index}.{name}": each for name, each in _layer(layer).items()}
    output = pickable_output(model, final)
    assert isinstance(output.weight, Blocked)
    return arrays | _in_panels("picked", output.weight, output.bias)


def _layer(layer: DecoderLayer) -> Arrays:
    attention, forward = layer.attention, layer.feedforward
    assert forward.gate is not None
    both = torch.cat([forward.gate.weight, forward.widen.weight])
    biases: list[Tensor] = [
        each.bias for each in (forward.gate, forward.widen) if each.bias is not None
    ]
    norms: dict[str, nn.Module | None] = {
        "attention_norm": layer.around_attention.norm,
        "feedforward_norm": layer.around_feedforward.norm,
        "query_norm": attention.query_norm,
        "key_norm": attention.key_norm,
    }
    return {
        **{
            name: floats(norm.weight)
            for name, norm in norms.items()
            if isinstance(norm, nn.RMSNorm)
        },
        **_linear("input", attention.input),
        **_linear("output", attention.output),
        **_in_panels("widen", blocked(both, 8), floats(torch.cat(biases)) if biases else None),
        **_linear("narrow", forward.narrow),
    }


def _linear(name: str, layer: nn.Linear) -> Arrays:
    bias = None if layer.bias is None else floats(layer.bias)
    return _in_panels(name, blocked(layer.weight, 8), bias)


def _in_panels(name: str, weight: Blocked, bias: Float[np.ndarray, "O"] | None) -> Arrays:
    """Return weights in panels of 64 outputs, in each the blocks, in these the inputs by fours."""
    outputs, blocks, size = weight.packed.shape
    panels = weight.packed.reshape(outputs // PANEL, PANEL, blocks, size // 4, 4)
    scale = weight.scale.reshape(outputs // PANEL, PANEL, blocks)
    arrays = {
        f"{name}.weights": np.ascontiguousarray(panels.transpose(0, 2, 3, 1, 4)),
        f"{name}.scale": np.ascontiguousarray(scale.transpose(0, 2, 1)),
    }
    return arrays if bias is None else {**arrays, f"{name}.bias": bias.astype(np.float32)}
