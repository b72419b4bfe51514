"""Multi-head attention, over the slots themselves and over the source.

Shapes: B sentences, N slots, M keys, S source tokens, D hidden size, H heads, E = D / H.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from multistride.model.cache import KeyValue, LayerCache
from multistride.model.config import TransformerConfig


class SelfAttention(nn.Module):
    """Attention among the entries of one sequence (arXiv 1706.03762, section 3.2)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        self.input = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B 1 #N M"] | None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Attend under `mask` (true: visible; None: all visible), to the cached keys as well where there are any."""
        query, key, value = (split_heads(part, self.heads) for part in self.input(hidden).chunk(3, dim=-1))
        if cache is not None:
            key, value = cache.append(key, value)
        dropout = self.dropout if self.training else 0.0
        output: Tensor = self.output(merge_heads(scaled_dot_product_attention(query, key, value, mask, dropout)))
        return output


class CrossAttention(nn.Module):
    """Attention of the slots over the encoded source; its keys and values are computed once a sentence."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key_value = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def project(self, source: Float[Tensor, "B S D"]) -> KeyValue:
        """Keys and values of the encoded source, each [B, H, S, E]."""
        key, value = self.key_value(source).chunk(2, dim=-1)
        return split_heads(key, self.heads), split_heads(value, self.heads)

    def forward(
        self, hidden: Float[Tensor, "B N D"], source: KeyValue, mask: Bool[Tensor, "B 1 1 S"] | None
    ) -> Float[Tensor, "B N D"]:
        """Attend to the source under `mask` (true: visible; None: all visible)."""
        query = split_heads(self.query(hidden), self.heads)
        dropout = self.dropout if self.training else 0.0
        output: Tensor = self.output(merge_heads(scaled_dot_product_attention(query, *source, mask, dropout)))
        return output


def split_heads(hidden: Float[Tensor, "B N D"], heads: int) -> Float[Tensor, "B H N E"]:
    """[B, N, D] as [B, H, N, E]."""
    split: Tensor = hidden.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split


def merge_heads(hidden: Float[Tensor, "B H N E"]) -> Float[Tensor, "B N D"]:
    """[B, H, N, E] as [B, N, D]."""
    return hidden.transpose(1, 2).flatten(2)
