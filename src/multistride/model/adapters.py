"""Low-rank adapters that act on mask slots alone, so that they can only change drafts.

The model's own weights stay as they are, and so does every slot of reach 1: what K=1 writes, and
exact mode with it, is bit for bit what the model wrote before it had adapters. Source: low-rank
adaptation, Hu et al. 2021 (arXiv 2106.09685, section 4.1); its gate over slots that predict further
ahead, Samragh et al. 2025 (arXiv 2507.11851, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from multistride.model.config import AdapterConfig


@dataclass
class DraftGate:
    """The number of mask slots, which are the last columns of the present pass.

    The decoder sets it, adapters read it.
    """

    columns: int = 0


class AdaptedLinear(nn.Linear):
    """A linear layer that adds a low-rank product to its last `gate.columns` rows.

    `weight` and `bias` keep their names, so the weights of a model without adapters fit. The
    addition is zero before it is trained.
    """

    def __init__(self, like: nn.Linear, config: AdapterConfig, gate: DraftGate) -> None:
        super().__init__(like.in_features, like.out_features, like.bias is not None)
        self.down = nn.Parameter(
            torch.randn(config.rank, like.in_features) * like.in_features**-0.5
        )
        self.up = nn.Parameter(torch.zeros(like.out_features, config.rank))
        self.gate, self.scale = gate, config.alpha / config.rank

    def forward(self, input: Float[Tensor, "B N I"]) -> Float[Tensor, "B N O"]:
        """Return the product; the rows of mask slots include the addition."""
        output = linear(input, self.weight, self.bias)
        columns = self.gate.columns
        if not columns:
            return output
        added = linear(linear(input[:, -columns:], self.down), self.up) * self.scale
        return torch.cat([output[:, :-columns], output[:, -columns:] + added], dim=1)


def adapt(layer: nn.Module, config: AdapterConfig, gate: DraftGate) -> None:
    """Give every linear layer inside `layer` an adapter."""
    for parent in list(layer.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, AdaptedLinear(child, config, gate))


def freeze_all_but_drafting(model: nn.Module) -> None:
    """Freeze all but what acts on mask slots: adapters, reach vectors and the Markov head."""
    for name, parameter in model.named_parameters():
        last = name.rpartition(".")[2]
        parameter.requires_grad_(last in ("down", "up") or name.startswith(("reach.", "markov.")))
