"""Attention that depends on how far apart two slots are: sliding windows and learned biases.

The distance of two slots is that of the positions they predict. For autoregressive slots it is that
of the tokens they read. In a group of K tokens each slot reads K tokens back, but stands at the
position it predicts: it sees the slots of the last W positions up to its own, and those of its own
group that stand after it.

Shapes: B sentences, N slots, M cached and new slots, H heads.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multistride.model.cache import LayerCache
from multistride.model.config import TransformerConfig
from multistride.model.layers import Sight, StartVectors


def distances(position: Int[Tensor, "B N"], cache: LayerCache | None) -> Int[Tensor, "B N M"]:
    """Return how far back each cached and new slot stands from each new one (negative: ahead).

    `cache` keeps the positions, as keys of width 1; None: there are no other slots.
    """
    seen = position
    if cache is not None:
        key = position[
            :, None, :, None
        ].float()  # exact up to 2^24, which max_positions cannot pass
        seen = cache.append(key, key)[0][:, 0, :, 0].long()
    return position[:, :, None] - seen[:, None, :]


def within(
    mask: Bool[Tensor, "B 1 #N M"] | None, distance: Int[Tensor, "B N M"], window: int
) -> Bool[Tensor, "B 1 N M"] | None:
    """Return the mask less the slots that stand `window` positions back or more (None: all)."""
    near = (distance < window)[:, None]
    if mask is not None:
        return mask & near
    return None if bool(near.all()) else near


class RelativeBias(nn.Module):
    """A learned number per head, added to attention logits, for every distance (T5).

    Distances up to half of the buckets have their own, larger ones share buckets of growing width,
    and those beyond `relative_furthest` share the last. In a decoder, slots ahead count as distance
    0; an encoder has half of the buckets for either direction. Source: Raffel et al. 2020, arXiv
    1910.10683, section 2.1.
    """

    def __init__(self, config: TransformerConfig, both_ways: bool = False) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(config.relative_buckets, config.heads))
        self.both_ways, self.furthest = both_ways, config.relative_furthest

    def forward(
        self, mask: Bool[Tensor, "#B 1 #N M"] | None, distance: Int[Tensor, "#B N M"]
    ) -> Float[Tensor, "#B H N M"]:
        """Return what is added to the logits; minus infinity where the mask hides."""
        numbers = nn.functional.embedding(self._buckets(distance), self.table).permute(0, 3, 1, 2)
        return numbers if mask is None else numbers.masked_fill(~mask, float("-inf"))

    def _buckets(self, distance: Int[Tensor, "#B N M"]) -> Int[Tensor, "#B N M"]:
        count = len(self.table)
        first: Tensor | int = 0
        if self.both_ways:
            count //= 2
            first = (distance < 0) * count
            distance = distance.abs()
        distance = distance.clamp(min=0)
        exact = count // 2
        # In float32 and in this order, as T5 computes it: other roundings move borders of buckets.
        scaled = (distance.float() / exact).log() / math.log(self.furthest / exact)
        shared = (exact + (scaled * (count - exact)).long()).clamp(max=count - 1)
        return first + torch.where(distance < exact, distance, shared)


class RelativePositions(StartVectors):
    """Positions of a decoder as numbers added to attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.bias = RelativeBias(config)


def sights(
    config: TransformerConfig,
    mask: Bool[Tensor, "B 1 #N M"] | None,
    distance: Int[Tensor, "B N M"],
    bias: RelativeBias | None,
) -> list[Sight]:
    """Return what slots see in each decoder layer, where `mask` is what groups allow."""
    if bias is not None:
        return [bias(mask, distance)] * config.decoder_layers
    assert config.attention_window is not None
    narrow = within(mask, distance, config.attention_window)
    return [narrow if config.slides(layer) else mask for layer in range(config.decoder_layers)]
