"""Packed weights: large matrices in the layout that the CPU's kernels want, for decoding.

A decoding step multiplies a few rows with constant matrices. PyTorch's own float32 product reads
such a matrix once for every few rows, so four rows cost four times as much as one; a oneDNN product
with weights packed in advance reads it once. Measured for 256 x 8,000 on one thread: 409
microseconds became 204 for one row, 1,840 became 261 for four. Small matrices gain nothing: there
the call itself dominates.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multistride.model.transformer import Transformer

SMALLEST = 2**20
"""Number of entries from which packing a matrix pays."""


class PackedLinear(nn.Module):
    """A linear layer with a packed copy of its weights: float32, on the CPU, without gradients."""

    def __init__(self, weight: Float[Tensor, "O I"], bias: Float[Tensor, "O"] | None) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self._bias = None if bias is None else bias.detach()

    def forward(self, rows: Float[Tensor, "*shape I"]) -> Float[Tensor, "*shape O"]:
        """Return the product, for any number of rows."""
        flat = rows.reshape(-1, rows.shape[-1])
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            flat, self._packed, self._bias, "none", [], ""
        )
        return product.view(*rows.shape[:-1], product.shape[-1])


def can_pack(weight: Tensor) -> bool:
    """Return true if packing this matrix is possible here and pays."""
    return (
        weight.numel() >= SMALLEST
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def projection(
    model: Transformer,
) -> Callable[[Float[Tensor, "*shape D"]], Float[Tensor, "*shape V"]]:
    """Return the function from hidden states to logits: `model.project`, or a packed equivalent."""
    weight = model.target_embedding.weight if model.config.tie_embeddings else model.output.weight
    if model.config.output_cap is not None:
        return model.project
    return PackedLinear(weight, model.output_bias) if can_pack(weight) else model.project
