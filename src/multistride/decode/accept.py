"""Acceptors: how much of a picked group is kept, from 1 to the size of the group, row by row."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.pick import Picked

Acceptor = Callable[[Picked, Int[Tensor, "R"]], Int[Tensor, "R"]]
"""What was picked, and how much of each row is its group, to how much of it is kept."""

Sureness = Callable[[Float[Tensor, "R K"], Int[Tensor, "R"]], Float[Tensor, "R K"]]
"""Log-probabilities of groups of given sizes, as the model gives them, to those one can rely on."""


def as_given(
    log_probabilities: Float[Tensor, "R K"], sizes: Int[Tensor, "R"]
) -> Float[Tensor, "R K"]:
    """Rely on the model's own probabilities."""
    return log_probabilities


def first_certain(
    log_probabilities: Float[Tensor, "R K"], sizes: Int[Tensor, "R"]
) -> Float[Tensor, "R K"]:
    """Take the first token as certain: in the lookahead layout it is what K=1 writes."""
    return torch.nn.functional.pad(log_probabilities[:, 1:], (1, 0))


def accept_all(picked: Picked, sizes: Int[Tensor, "R"]) -> Int[Tensor, "R"]:
    """Keep every token of the group (fast mode; the paper)."""
    return sizes


def confident_prefix(threshold: float, sureness: Sureness = as_given) -> Acceptor:
    """Keep tokens while the probability of all of them together stays at or above `threshold`;
    always the first.

    The probability of a prefix is the product of its tokens' own, as the model gave them when it
    picked them, or as `sureness` corrects them.
    """

    def accept(picked: Picked, sizes: Int[Tensor, "R"]) -> Int[Tensor, "R"]:
        together = sureness(picked.log_probabilities, sizes).cumsum(dim=1)
        sure = (
            together >= math.log(threshold)
            if threshold > 0
            else torch.ones_like(together, dtype=torch.bool)
        )
        return torch.minimum(sure.long().cumprod(dim=1).sum(dim=1).clamp(min=1), sizes)

    return accept


def verified_prefix(
    choices: Int[Tensor, "R C"], drafts: Int[Tensor, "R D"], counts: Int[Tensor, "R"]
) -> Int[Tensor, "R"]:
    """Return how many of `choices` stand: those that agree with their draft, and one more.

    `choices[:, i]` is what the model writes after draft i - 1 (after the known tokens for i = 0);
    `counts` drafts of a row are real. Returns 1 to `counts` + 1 (Stern et al. 2018, arXiv
    1811.03115, section 3).
    """
    width = min(choices.shape[1], drafts.shape[1])
    agrees = choices[:, :width] == drafts[:, :width]
    agrees &= torch.arange(width) < counts[:, None]
    return agrees.long().cumprod(dim=1).sum(dim=1) + 1
