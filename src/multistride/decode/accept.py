"""How much of a picked group is kept. An acceptor returns, for each row, a count from 1 to K."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from multistride.decode.pick import Picked

Acceptor = Callable[[Picked], Int[Tensor, "R"]]


def accept_all(picked: Picked) -> Int[Tensor, "R"]:
    """Keep every token of the group (fast mode; the paper)."""
    rows, group_size = picked.tokens.shape
    return torch.full((rows,), group_size, device=picked.tokens.device)


def confident_prefix(threshold: float) -> Acceptor:
    """Keep tokens while the probability of all of them together stays at or above `threshold`; always the first.

    The probability of a prefix is the product of its tokens' own, as the model gave them when it picked them.
    """

    def accept(picked: Picked) -> Int[Tensor, "R"]:
        together = picked.log_probabilities.cumsum(dim=1)
        sure = together >= math.log(threshold) if threshold > 0 else torch.ones_like(together, dtype=torch.bool)
        return sure.long().cumprod(dim=1).sum(dim=1).clamp(min=1)

    return accept


def verified_prefix(
    choices: Int[Tensor, "R C"], drafts: Int[Tensor, "R D"], counts: Int[Tensor, "R"]
) -> Int[Tensor, "R"]:
    """How many of `choices` stand: those that agree with the draft before them, and the first one that does not.

    `choices[:, i]` is what the model writes after draft i - 1 (after the known tokens for i = 0); `counts` drafts of
    a row are real. Returns 1 to `counts` + 1 (Stern et al. 2018, arXiv 1811.03115, section 3).
    """
    width = min(choices.shape[1], drafts.shape[1])
    agrees = choices[:, :width] == drafts[:, :width]
    agrees &= torch.arange(width) < counts[:, None]
    return agrees.long().cumprod(dim=1).sum(dim=1) + 1
