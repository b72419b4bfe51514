"""The shape of a model: everything `config.json` in a model directory says."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TransformerConfig(BaseModel):
    """The sizes and choices of one Transformer. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary_size: int = Field(
        0, ge=0, description="entries of the joint vocabulary; training takes it from the data"
    )
    hidden_size: int = Field(256, ge=8, description="width of the residual stream (D)")
    feedforward_size: int = Field(1024, ge=8, description="inner width of the feed-forward layers")
    heads: int = Field(4, ge=1, description="attention heads (H); divides hidden_size")
    encoder_layers: int = Field(3, ge=0, description="encoder depth; 0 makes a decoder-only (causal) model")
    decoder_layers: int = Field(3, ge=1, description="decoder depth")
    norm: Literal["pre", "post"] = Field("pre", description="layer normalisation before or after each sublayer")
    activation: Literal["relu", "gelu"] = Field("relu", description="of the feed-forward layers")
    positions: Literal["sinusoidal", "learned"] = Field("sinusoidal", description="kind of position embedding")
    max_positions: int = Field(256, ge=8, description="longest source and longest target, in tokens with EOS")
    tie_embeddings: bool = Field(True, description="source, target and output embedding are one matrix")
    dropout: float = Field(0.1, ge=0, lt=1, description="on embeddings and sublayer outputs")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="on attention weights (slower on CPUs if not 0)")
    max_group_size: int = Field(8, ge=1, description="largest K this model has reach embeddings for")
    markov_rank: int = Field(0, ge=0, description="rank of the Markov head; 0 for none")
    group_sizes: tuple[int, ...] = Field((1,), description="the K values it was trained for, K=1 first")
    lookahead: bool = Field(False, description="it was trained to draft: with masks behind known tokens")
    pad_token: int = Field(0, ge=0)
    start_token: int = Field(1, ge=0, description="what slots before the beginning of the sentence read")
    end_token: int = Field(2, ge=0, description="EOS")
    mask_token: int = Field(3, ge=0, description="what lookahead slots read")

    @model_validator(mode="after")
    def _consistent(self) -> TransformerConfig:
        if self.hidden_size % self.heads or self.hidden_size % 2:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; it must be even and a multiple of heads ({self.heads})"
            )
        sizes, largest = list(self.group_sizes), self.max_group_size
        if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] > largest:
            raise ValueError(f"group_sizes is {sizes}; each must lie in 1 ... {largest}, in rising order")
        return self
