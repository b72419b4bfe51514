"""The small modules: positions, reach, feed-forward layer, normalisation, residual wrapper.

Shapes: B sentences, N slots or S source tokens, D hidden size, H heads, E width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multistride.model.config import RotaryScaling, TransformerConfig

Rotation = tuple[Float[Tensor, "B 1 N F"], Float[Tensor, "B 1 N F"]]
"""Cosines and sines of the angles that queries and keys are turned by; F = E / 2."""

Sight = Bool[Tensor, "#B 1 #N M"] | Float[Tensor, "#B H #N M"] | None
"""What slots see: true where visible, or numbers added to attention logits, minus infinity where
not; None: everything."""

TABLES = "cpu"
"""The device of computed constants, even while a model is created on the meta device."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu-tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
}


def sinusoids(positions: int, width: int) -> Float[Tensor, "positions width"]:
    """Return fixed position vectors, sines then cosines.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5.
    """
    rates = torch.exp(torch.arange(0, width, 2, device=TABLES) * (-math.log(10000.0) / width))
    angles = torch.arange(positions, device=TABLES)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class PositionEmbedding(nn.Module):
    """A vector for every position, fixed or learned. Positions past the table share its last entry.

    Learned vectors begin as large as sinusoids: where the input is start symbols, position alone
    distinguishes the slots of the first group.
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
        """Return the position vectors [B, N, D]."""
        return nn.functional.embedding(position.clamp(max=len(self.table) - 1), self.table)


class StartVectors(nn.Module):
    """Learned vectors that tell start symbols apart where positions are not added to embeddings.

    Start symbols differ in position alone, and neither a rotation nor a number added to attention
    shows where all visible slots are alike. So start symbols further back than the first have
    learned vectors, added to their embeddings.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        starts = torch.randn(config.max_group_size, config.hidden_size) * config.hidden_size**-0.5
        self.further_start = nn.Embedding.from_pretrained(starts, freeze=False, padding_idx=0)
        with torch.no_grad():
            self.further_start.weight[0] = 0.0

    def starts(
        self, position: Int[Tensor, "B N"], reach: Int[Tensor, "B N"]
    ) -> Float[Tensor, "B N D"]:
        """Return what is added to embeddings: zero, but for start symbols before the first."""
        back = (reach - position - 1).clamp(min=0, max=self.further_start.num_embeddings - 1)
        vectors: Tensor = self.further_start(back)
        return vectors


class RotaryPositions(StartVectors):
    """Positions as rotations of queries and keys (Su et al. 2021, arXiv 2104.09864, section 3.2.2).

    A slot is rotated by the position it predicts, less one: the position of the token that an
    autoregressive slot reads, and of the token that a mask stands for. Attention sees differences
    of positions only, so the slots of a group, which read K tokens back, are K - 1 positions ahead
    of what they read. The two halves of a head are the two coordinates, as in Llama.
    """

    frequency: Tensor
    factor: Tensor | None
    sliding: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        frequency = frequencies(config.rotary_base, config.head_width)
        if config.rotary_scaling is not None:
            frequency = slowed(frequency, config.rotary_scaling)
        if config.rotary_frequencies is not None:
            frequency = torch.tensor(config.rotary_frequencies, device=TABLES)
        self.register_buffer("frequency", frequency, persistent=False)
        # Pairs that do not turn are no part of what the factor of YaRN and LongRoPE is for.
        factor = torch.where(frequency == 0, 1.0, config.rotary_factor)
        self.register_buffer(
            "factor", None if config.rotary_factor == 1.0 else factor, persistent=False
        )
        if config.window_rotary_base is not None:
            sliding = frequencies(config.window_rotary_base, config.head_width)
            self.register_buffer("sliding", sliding, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Move to another device or type as all modules do, but compute angles in float32.

        bfloat16 has 8 bits: angles at position 1,000 would be wrong by up to 0.4 radians.
        """
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        moved: nn.Module = super()._apply(fn, recurse)
        for name, buffer in kept.items():
            now = self._buffers[name]
            assert now is not None
            self._buffers[name] = buffer.to(now.device) if now.dtype != buffer.dtype else now
        return moved

    def forward(self, position: Int[Tensor, "B N"]) -> Rotation:
        """Return the rotation of each slot."""
        cosine, sine = _turned(position, self.frequency)
        return (cosine, sine) if self.factor is None else (cosine * self.factor, sine * self.factor)

    def within_window(self, position: Int[Tensor, "B N"]) -> Rotation:
        """Return the rotation of each slot in layers with a rotary base of their own."""
        return _turned(position, self.sliding)


def frequencies(base: float, width: int) -> Float[Tensor, "F"]:
    """Return the angles per position of the pairs of a head, the fastest first."""
    places = torch.arange(0, width, 2, dtype=torch.float, device=TABLES)
    return base ** -(places / width)


def _turned(position: Int[Tensor, "B N"], frequency: Float[Tensor, "F"]) -> Rotation:
    angles = (position - 1)[:, None, :, None].float() * frequency
    return angles.cos(), angles.sin()


def slowed(frequency: Float[Tensor, "F"], scaling: RotaryScaling) -> Float[Tensor, "F"]:
    """Return frequencies with the slow ones divided by `factor` and the fast ones unchanged.

    Those between are interpolated.
    """
    turns = scaling.original_positions * frequency / (2 * math.pi)
    share = (turns - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency)
    share = share.clamp(0, 1)
    return (1 - share) * frequency / scaling.factor + share * frequency


def rotated(heads: Float[Tensor, "B H N E"], rotation: Rotation) -> Float[Tensor, "B H N E"]:
    """Return queries or keys rotated by the angles of their slots."""
    cosine, sine = (part.to(heads.dtype) for part in rotation)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def normalisation(config: TransformerConfig, width: int | None = None) -> nn.Module:
    """Return a LayerNorm (Ba et al. 2016, arXiv 1607.06450) or an RMSNorm.

    RMSNorm: Zhang and Sennrich 2019, arXiv 1910.07467.
    """
    make = nn.LayerNorm if config.norm_kind == "layer" else nn.RMSNorm
    return make(width or config.hidden_size, eps=config.norm_epsilon)


class ReachEmbedding(nn.Module):
    """A vector for every reach: zero before training, and always zero for reach 1.

    So a model without any training on groups *is* the autoregressive model, and every model is one
    at K=1.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        zeros = torch.zeros(config.max_group_size, config.hidden_size)
        self.beyond_one = nn.Embedding.from_pretrained(zeros, freeze=False, padding_idx=0)

    def forward(self, reach: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Return the reach vectors [B, N, D]; zero where the reach is 1."""
        vectors: Tensor = self.beyond_one(reach - 1)
        return vectors


class FeedForward(nn.Module):
    """Two linear layers with a nonlinearity between them (arXiv 1706.03762, section 3.3).

    If gated, the output of the nonlinearity is multiplied by that of a third layer (Shazeer 2020,
    arXiv 2002.05202, equation 6).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        bias = config.feedforward_bias
        self.widen = nn.Linear(config.hidden_size, config.feedforward_size, bias)
        self.narrow = nn.Linear(config.feedforward_size, config.hidden_size, bias)
        self.gate = (
            nn.Linear(config.hidden_size, config.feedforward_size, bias)
            if config.gated_feedforward
            else None
        )
        self.activation = ACTIVATIONS[config.activation]()

    def forward(self, hidden: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Return the layer's output [B, N, D]."""
        if self.gate is None:
            output: Tensor = self.narrow(self.activation(self.widen(hidden)))
            return output
        gated: Tensor = self.narrow(self.activation(self.gate(hidden)) * self.widen(hidden))
        return gated


class Residual(nn.Module):
    """Adds a sublayer to the residual stream, normalised as `TransformerConfig.norm` says."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = normalisation(config)
        self.dropout = nn.Dropout(config.dropout)
        self.before = config.norm in ("pre", "sandwich")
        self.output_norm = normalisation(config) if config.norm == "sandwich" else None
        self.of_output = config.norm == "output"

    def forward(
        self, hidden: Float[Tensor, "B N D"], sublayer: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "B N D"]:
        """Return the residual stream after the sublayer [B, N, D]."""
        if self.before:
            return hidden + self.branch(hidden, sublayer)
        if self.of_output:
            summed: Tensor = hidden + self.dropout(self.norm(sublayer(hidden)))
            return summed
        normed: Tensor = self.norm(hidden + self.dropout(sublayer(hidden)))
        return normed

    def branch(
        self, hidden: Float[Tensor, "B N D"], sublayer: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "B N D"]:
        """Return what a sublayer that is normalised before adds to the residual stream."""
        output = sublayer(self.norm(hidden))
        if self.output_norm is not None:
            output = self.output_norm(output)
        added: Tensor = self.dropout(output)
        return added
