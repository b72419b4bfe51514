"""Attention weights over the source, which the fused kernel of decoding does not return.

Shapes: L decoder layers, H heads, N slots, S source tokens, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multistride.groups import Slots
from multistride.model.attention import CrossAttention, merge_heads, split_heads
from multistride.model.cache import KeyValue
from multistride.model.transformer import DecoderLayer, Transformer


@torch.inference_mode()
def cross_attention(
    model: Transformer, source: Int[Tensor, "1 S"], lengths: Int[Tensor, "1"], slots: Slots
) -> Float[Tensor, "L H N S"]:
    """Return the weights of all decoder layers and heads in one pass over a sentence's slots.

    They are computed beside the pass from what its cross-attention is given; a row adds up to one.
    """
    assert model.encoder, "a causal model has no source to look at"
    found: list[Tensor] = []

    def watch(module: CrossAttention, given: tuple[Any, ...], output: Tensor) -> None:
        found.append(explicit(module, *given)[0][0])

    layers = [layer for layer in model.decoder if isinstance(layer, DecoderLayer)]
    handles = [layer.cross.register_forward_hook(watch) for layer in layers]
    try:
        model.eval()(source, lengths, slots)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found)


def explicit(
    attention: CrossAttention,
    hidden: Float[Tensor, "B N D"],
    source: KeyValue,
    mask: Bool[Tensor, "B 1 1 S"] | None,
) -> tuple[Float[Tensor, "B H N S"], Float[Tensor, "B N D"]]:
    """Return the weights and the output of a cross-attention (arXiv 1706.03762, equation 1)."""
    key, value = source
    query = split_heads(attention.query(hidden), attention.width)
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=-1)
    project: Callable[[Tensor], Tensor] = attention.output
    return weights, project(merge_heads(weights @ value))
