"""Cross-entropy over a large vocabulary where the output matrix is frozen: in chunks, gradients at
once.

Adapters are trained on a few thousand drafts an update, each with logits over the whole vocabulary
of a converted model: a table of hundreds of megabytes, written and read a dozen times on its way
through softmax and back. Here a chunk of rows is taken from hidden states to gradients before the
next one is looked at. The idea is that of fused linear cross-entropy (Hsu et al. 2024, arXiv
2410.10989, section 3.2).

Shapes: L labelled slots, D hidden size, V vocabulary, R rank of the Markov head, C rows of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from multistride.groups import NO_LABEL
from multistride.model.transformer import Transformer

ROWS = 128
"""Rows of a chunk: enough for fast products, few enough that one chunk's logits stay below 30
MB."""


def has_frozen_output(model: Transformer) -> bool:
    """Return True if only the Markov head can learn from the logits of drafts."""
    head = model.target_embedding if model.config.tie_embeddings else model.output
    linear_head = model.config.output_cap is None
    return model.config.adapter is not None and linear_head and not head.weight.requires_grad


def chunked_cross_entropy(
    model: Transformer,
    hidden: Float[Tensor, "L D"],
    wanted: Int[Tensor, "L"],
    previous: Int[Tensor, "L"],
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """The summed cross-entropy of labelled slots and how many of them are right, as `SlotLoss` has
    them.

    `previous` is the token before each label, `NO_LABEL` where the Markov head has no say.
    """
    weight = (model.target_embedding if model.config.tie_embeddings else model.output).weight
    if model.markov is None:
        before = following = hidden.new_zeros(0)
    else:
        says = (previous != NO_LABEL)[:, None]
        before = torch.where(says, model.markov.previous(previous.clamp(min=0)), 0)
        following = model.markov.following
    kind = hidden.device.type
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    loss, correct = _Chunked.apply(
        hidden, weight.to(precision), before, following, wanted, model.output_bias
    )
    return loss, correct


class _Chunked(torch.autograd.Function):
    """Loss and gradients of hidden states and of the Markov head's two factors."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        before: Tensor,
        following: Tensor,
        wanted: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        precision, width = weight.dtype, hidden.shape[1]
        entering = hidden.to(precision)
        if before.numel():
            # The head's factors beside those of the output matrix: one product sums both.
            weight = torch.cat([weight, following.to(precision)], dim=1)
            entering = torch.cat([entering, before.to(precision)], dim=1)
        of_entering = torch.empty_like(entering)
        of_following = torch.zeros_like(following)
        loss, correct = hidden.new_zeros((), dtype=torch.float), wanted.new_zeros(())
        with torch.autocast(hidden.device.type, enabled=False):
            for first in range(0, len(hidden), ROWS):
                rows = slice(first, first + ROWS)
                asked = wanted[rows, None]
                logits = linear(
                    entering[rows], weight, None if bias is None else bias.to(precision)
                )
                error = logits.softmax(dim=-1)
                given = error.gather(1, asked)
                correct += (given[:, 0] == error.amax(dim=-1)).sum()
                loss -= given.float().clamp(min=torch.finfo(torch.float).tiny).log().sum()
                error.scatter_(1, asked, given - 1)
                torch.mm(error, weight, out=of_entering[rows])
                if before.numel():
                    of_following += error.T @ entering[rows, width:]
        ctx.save_for_backward(of_entering, of_following)
        ctx.width = width
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        of_entering, of_following = ctx.saved_tensors
        of_hidden, of_before = (
            of_entering[:, : ctx.width] * scale,
            of_entering[:, ctx.width :] * scale,
        )
        if not of_following.numel():
            return of_hidden, None, None, None, None, None
        return of_hidden, None, of_before, of_following * scale, None, None
