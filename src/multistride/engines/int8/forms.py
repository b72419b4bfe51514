"""The forms of weights and activations, and which of them suits a model."""

from __future__ import annotations

from multistride.engines.names import WeightForm
from multistride.model.config import TransformerConfig


def by_row(config: TransformerConfig, form: WeightForm = "int8") -> bool:
    """Return true if activations are rounded row by row: in models that were converted.

    Some of their channels and tokens are hundreds of times as large as others, and what random
    tokens show of them says little. So every row has a scale of its own, which takes a few more
    passes over it, or several (`block_bits`).
    """
    return bool(config.extras) or block_bits(config, form) > 0


def block_bits(config: TransformerConfig, form: WeightForm = "int8") -> int:
    """Return the bits of weights that are multiplied in blocks; 0: one scale for each row.

    Weights of 4 bits need blocks. Of 8 bits, converted causal models have them: they mostly write
    one text at a time, where blocks are faster too.
    """
    if form == "int4":
        return 4
    return 8 if form == "int8" and config.extras and not config.encoder_layers else 0
