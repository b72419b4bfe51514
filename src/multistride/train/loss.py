"""The training objective: cross-entropy of the labelled slots.

Shapes: B sentences, S source tokens, N slots, L labelled slots.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multistride.groups import NO_LABEL, Slots
from multistride.model.transformer import Transformer


class Losses(NamedTuple):
    """Sums over the labelled slots, in nats; divide by the number of labels."""

    smoothed: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]
    correct: Int[Tensor, ""]


class SlotLoss(nn.Module):
    """The model with its objective, so that one `forward` is what devices, precision and processes wrap.

    Label smoothing mixes the target distribution with the uniform one (Szegedy et al. 2016, arXiv 1512.00567,
    section 7). Slots without a label cost no projection to the vocabulary.
    """

    def __init__(self, model: Transformer, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(
        self,
        source: Int[Tensor, "B S"] | None,
        source_lengths: Int[Tensor, "B"] | None,
        slots: Slots,
        labels: Int[Tensor, "B N"],
    ) -> Losses:
        """The sums over all labels of the batch."""
        hidden = self.model(source, source_lengths, slots)
        asked = labels != NO_LABEL
        logits = self.model.project(hidden[asked]).float()
        wanted = labels[asked]
        log_probabilities = logits.log_softmax(dim=-1)
        cross_entropy = -log_probabilities.gather(1, wanted[:, None]).sum()
        smoothed = cross_entropy
        if self.label_smoothing:
            uniform = -log_probabilities.mean(dim=-1).sum()
            smoothed = (1 - self.label_smoothing) * cross_entropy + self.label_smoothing * uniform
        with torch.no_grad():
            correct = (logits.argmax(dim=-1) == wanted).sum()
        return Losses(smoothed, cross_entropy.detach(), correct)
