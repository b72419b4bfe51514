"""Multi-head attention, over the slots themselves and over the source.

There may be fewer heads of keys and values than of queries: each serves several (Ainslie et al.
2023, arXiv 2305.13245).

Shapes: B sentences, N slots, M keys, S source tokens, D hidden size, H heads, E width of a head.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import dropout as dropped
from torch.nn.functional import scaled_dot_product_attention

from multistride.model.cache import KeyValue, LayerCache
from multistride.model.config import TransformerConfig
from multistride.model.layers import Rotation, Sight, rotated


def attend(
    query: Float[Tensor, "B H N E"],
    key: Float[Tensor, "B G M E"],
    value: Float[Tensor, "B G M E"],
    mask: Sight,
    dropout: float,
) -> Float[Tensor, "B H N E"]:
    """Return scaled dot-product attention; each head of keys and values serves H / G of queries."""
    shared = query.shape[1] != key.shape[1]
    output: Tensor = scaled_dot_product_attention(
        query, key, value, mask, dropout, enable_gqa=shared
    )
    return output


class Capped:
    """Attention whose logits are capped softly (Gemma 2, arXiv 2408.00118, section 2).

    The fused kernel has no place for that, so this one computes the weights.
    """

    def __init__(self, cap: float) -> None:
        self.cap = cap

    def __call__(
        self,
        query: Float[Tensor, "B H N E"],
        key: Float[Tensor, "B G M E"],
        value: Float[Tensor, "B G M E"],
        mask: Sight,
        dropout: float,
    ) -> Float[Tensor, "B H N E"]:
        """Return what `attend` returns of capped logits."""
        return weights_of(query, key, mask, dropout, self.cap) @ shared_heads(query, value)


def weights_of(
    query: Float[Tensor, "B H N E"],
    key: Float[Tensor, "B G M E"],
    mask: Sight,
    dropout: float,
    cap: float | None,
) -> Float[Tensor, "B H N M"]:
    """Return the weights of attention (arXiv 1706.03762, equation 1)."""
    scores = query @ shared_heads(query, key).transpose(2, 3) * query.shape[-1] ** -0.5
    if cap is not None:
        scores = cap * (scores / cap).tanh()
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    weights: Tensor = dropped(scores.float().softmax(-1).to(query.dtype), dropout, dropout > 0)
    return weights


def shared_heads(
    query: Float[Tensor, "B H N E"], heads: Float[Tensor, "B G M E"]
) -> Float[Tensor, "B H M E"]:
    """Return keys or values with each head repeated for the queries it serves."""
    return heads.repeat_interleave(query.shape[1] // heads.shape[1], 1)


class SelfAttention(nn.Module):
    """Attention among the entries of one sequence (arXiv 1706.03762, section 3.2)."""

    attend = staticmethod(attend)

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout, self.width = config.attention_dropout, config.head_width
        queries, keys = config.heads * self.width, config.key_value_count * self.width
        self.sizes = (queries, keys, keys)
        self.input = nn.Linear(config.hidden_size, sum(self.sizes), config.attention_bias != "none")
        self.output = nn.Linear(queries, config.hidden_size, config.attention_bias == "all")
        self.query_norm = self.key_norm = None
        self.norm_first = config.query_key_norm_over == "all"
        if config.query_key_norm:
            widths = (queries, keys) if self.norm_first else (self.width, self.width)
            self.query_norm, self.key_norm = (
                nn.RMSNorm(width, config.norm_epsilon) for width in widths
            )
        if config.attention_cap is not None:
            self.attend = Capped(config.attention_cap)

    def forward(
        self,
        hidden: Float[Tensor, "B N D"],
        mask: Sight,
        cache: LayerCache | None = None,
        rotation: Rotation | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Attend under `mask` (`Sight`), to cached keys as well.

        With rotary positions `rotation` turns queries and keys; the cache keeps rotated keys.
        """
        parts = self.input(hidden).split(self.sizes, dim=-1)
        if self.norm_first and self.query_norm is not None and self.key_norm is not None:
            parts = self.query_norm(parts[0]), self.key_norm(parts[1]), parts[2]
        query, key, value = (split_heads(part, self.width) for part in parts)
        if not self.norm_first and self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotated(query, rotation), rotated(key, rotation)
        if cache is not None:
            key, value = cache.append(key, value)
        dropout = self.dropout if self.training else 0.0
        output: Tensor = self.output(merge_heads(self.attend(query, key, value, mask, dropout)))
        return output


class CrossAttention(nn.Module):
    """Attention of the slots over the encoded source, whose keys and values are computed once."""

    attend = staticmethod(attend)

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout, self.width = config.attention_dropout, config.head_width
        queries, keys = config.heads * self.width, config.key_value_count * self.width
        self.query = nn.Linear(config.hidden_size, queries, config.attention_bias != "none")
        self.key_value = nn.Linear(config.hidden_size, 2 * keys, config.attention_bias != "none")
        self.output = nn.Linear(queries, config.hidden_size, config.attention_bias == "all")

    def project(self, source: Float[Tensor, "B S D"]) -> KeyValue:
        """Return the keys and values of the encoded source, each [B, H, S, E]."""
        key, value = self.key_value(source).chunk(2, dim=-1)
        return split_heads(key, self.width), split_heads(value, self.width)

    def forward(
        self, hidden: Float[Tensor, "B N D"], source: KeyValue, mask: Bool[Tensor, "B 1 1 S"] | None
    ) -> Float[Tensor, "B N D"]:
        """Attend to the source under `mask` (true: visible; None: all visible)."""
        query = split_heads(self.query(hidden), self.width)
        dropout = self.dropout if self.training else 0.0
        output: Tensor = self.output(merge_heads(self.attend(query, *source, mask, dropout)))
        return output


def split_heads(hidden: Float[Tensor, "B N D"], width: int) -> Float[Tensor, "B H N E"]:
    """Return [B, N, D] as [B, H, N, E], heads of the given width."""
    split: Tensor = hidden.unflatten(-1, (-1, width)).transpose(1, 2)
    return split


def merge_heads(hidden: Float[Tensor, "B H N E"]) -> Float[Tensor, "B N D"]:
    """Return [B, H, N, E] as [B, N, D]."""
    return hidden.transpose(1, 2).flatten(2)
