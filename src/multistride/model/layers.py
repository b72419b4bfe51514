"""The small bricks: embeddings of position and reach, the feed-forward layer, the residual wrapper.

Shapes: B sentences, N slots or S source tokens, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multistride.model.config import TransformerConfig


def sinusoids(positions: int, width: int) -> Float[Tensor, "positions width"]:
    """Fixed position vectors (Vaswani et al. 2017, arXiv 1706.03762, section 3.5), sines then cosines."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(positions)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class PositionEmbedding(nn.Module):
    """A vector for every position, fixed or learned. Positions past the table share its last entry.

    Learned ones begin as large as sinusoids are: with start symbols for input, position is all that tells the slots
    of the first group apart.
    """

    table: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        count = config.max_positions + config.max_group_size
        if config.positions == "learned":
            self.table = nn.Parameter(torch.randn(count, config.hidden_size) * 0.5**0.5)
        else:
            self.register_buffer("table", sinusoids(count, config.hidden_size), persistent=False)

    def forward(self, position: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Position vectors, [B, N, D]."""
        return nn.functional.embedding(position.clamp(max=len(self.table) - 1), self.table)


class ReachEmbedding(nn.Module):
    """A vector for every reach. Zero at the start of training, and for reach 1 for ever.

    So a model without any training on groups *is* the autoregressive model, and at K=1 it always is one.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        zeros = torch.zeros(config.max_group_size, config.hidden_size)
        self.beyond_one = nn.Embedding.from_pretrained(zeros, freeze=False, padding_idx=0)

    def forward(self, reach: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Reach vectors, [B, N, D]; zero where the reach is 1."""
        vectors: Tensor = self.beyond_one(reach - 1)
        return vectors


class FeedForward(nn.Module):
    """Two linear layers with a nonlinearity between them (arXiv 1706.03762, section 3.3)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.widen = nn.Linear(config.hidden_size, config.feedforward_size)
        self.narrow = nn.Linear(config.feedforward_size, config.hidden_size)
        self.activation = nn.ReLU() if config.activation == "relu" else nn.GELU()

    def forward(self, hidden: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The layer's output, [B, N, D]."""
        output: Tensor = self.narrow(self.activation(self.widen(hidden)))
        return output


class Residual(nn.Module):
    """Adds a sublayer to the residual stream, with layer normalisation before it (pre) or after the sum (post)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.before = config.norm == "pre"

    def forward(self, hidden: Float[Tensor, "B N D"], sublayer: Callable[[Tensor], Tensor]) -> Float[Tensor, "B N D"]:
        """The stream after the sublayer, [B, N, D]."""
        if self.before:
            updated: Tensor = hidden + self.dropout(sublayer(self.norm(hidden)))
            return updated
        normed: Tensor = self.norm(hidden + self.dropout(sublayer(hidden)))
        return normed
