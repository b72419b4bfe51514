"""From logits to tokens. A picker is made once, outside the loop, and called once a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.model.config import TransformerConfig


class Picked(NamedTuple):
    """One token for every slot of a group, and its log-probability (natural logarithm); both on the CPU."""

    tokens: Int[Tensor, "R K"]
    log_probabilities: Float[Tensor, "R K"]


Picker = Callable[[Float[Tensor, "R K V"]], Picked]


def greedy(config: TransformerConfig) -> Picker:
    """Pick the most probable token of each slot; of equally probable ones the lowest id.

    The padding, start and mask symbols are never picked; probabilities are over what can be.
    """
    never = torch.tensor([config.pad_token, config.start_token, config.mask_token])

    def pick(logits: Float[Tensor, "R K V"]) -> Picked:
        scores = logits.float().index_fill(-1, never.to(logits.device), float("-inf"))
        best, tokens = scores.max(dim=-1)
        return Picked(tokens.cpu(), (best - scores.logsumexp(dim=-1)).cpu())

    return pick
