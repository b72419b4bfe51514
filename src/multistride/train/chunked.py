"""Cross-entropy over a vocabulary in chunks, gradients at once.

An update has thousands of labels, each with logits over the whole vocabulary: a table of tens to
hundreds of megabytes, written and read a dozen times on its way through softmax, smoothing and
back. Here a chunk of rows is taken from hidden states to gradients before the next one is looked
at, while it is still in the processor's cache. The idea is that of fused linear cross-entropy (Hsu
et al. 2024, arXiv 2410.10989, section 3.2).

Shapes: L labelled slots, D hidden size, V vocabulary, R rank of the Markov head, C rows of a chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from multistride.groups import NO_LABEL
from multistride.model.transformer import Transformer

ENTRIES = 2**21
"""Logits of a chunk: enough rows for fast products, few enough that a chunk stays below 8 MB."""


class ChunkedLoss(NamedTuple):
    """Sums over all labels, in nats."""

    smoothed: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]
    correct: Int[Tensor, ""]


def takes_chunks(model: Transformer) -> bool:
    """Return True if the logits of `model` are one product, as `chunked_cross_entropy` needs."""
    return model.config.output_cap is None


def chunked_cross_entropy(
    model: Transformer,
    hidden: Float[Tensor, "L D"],
    wanted: Int[Tensor, "L"],
    previous: Int[Tensor, "L"],
    label_smoothing: float = 0.0,
) -> ChunkedLoss:
    """The loss of `loss.SlotLoss` from the hidden states of labelled slots.

    `previous` is the token before each label, `NO_LABEL` where the Markov head has no say. Only
    `smoothed` has gradients.
    """
    weight = (model.target_embedding if model.config.tie_embeddings else model.output).weight
    kind = hidden.device.type
    precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    entering, following = hidden.to(precision), None
    if model.markov is not None:
        # The head's factors beside those of the output matrix: one product sums both.
        says = (previous != NO_LABEL)[:, None]
        before = torch.where(says, model.markov.previous(previous.clamp(min=0)), 0)
        entering = torch.cat([entering, before.to(precision)], dim=1)
        following = model.markov.following
    labels = _Labels(wanted, label_smoothing, torch.is_grad_enabled())
    return ChunkedLoss(*_Chunked.apply(entering, weight, following, model.output_bias, labels))


class _Labels(NamedTuple):
    """Tokens to predict, and their smoothing; `learning` is False where no gradient is needed."""

    wanted: Int[Tensor, "L"]
    smoothing: float
    learning: bool


class _Chunked(torch.autograd.Function):
    """Loss and gradients of the hidden states, of the output layer and of the Markov head."""

    @staticmethod
    def forward(
        ctx: Any,
        entering: Tensor,
        weight: Tensor,
        following: Tensor | None,
        bias: Tensor | None,
        labels: _Labels,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wanted, smoothing, learning = labels
        precision, (vocabulary, width) = entering.dtype, weight.shape
        matrix = weight.to(precision)
        if following is not None:
            matrix = torch.cat([matrix, following.to(precision)], dim=1)
        added = None if bias is None else bias.to(precision)
        first = 0 if ctx.needs_input_grad[1] else width  # a frozen output matrix has no gradient
        learns_matrix = learning and first < matrix.shape[1]
        of_entering = torch.empty_like(entering) if learning else None
        of_matrix = (
            weight.new_zeros((vocabulary, matrix.shape[1] - first)) if learns_matrix else None
        )
        of_bias = bias.new_zeros(vocabulary) if bias is not None and learning else None
        cross_entropy, uniform = entering.new_zeros(2, dtype=torch.float)
        correct = wanted.new_zeros(())
        with torch.autocast(entering.device.type, enabled=False):
            step = max(1, ENTRIES // vocabulary)
            for begin in range(0, len(entering), step):
                rows = slice(begin, begin + step)
                asked = wanted[rows, None]
                logits = linear(entering[rows], matrix, added).float()
                log_probabilities = logits.log_softmax(dim=-1)
                given = log_probabilities.gather(1, asked)
                correct += (given[:, 0] == log_probabilities.amax(dim=-1)).sum()
                cross_entropy -= given.sum()
                if smoothing:
                    uniform -= log_probabilities.mean(dim=-1).sum()
                if of_entering is None:
                    continue
                error = log_probabilities.exp_()
                if smoothing:
                    error -= smoothing / vocabulary
                error.scatter_add_(1, asked, torch.full_like(given, smoothing - 1))
                if of_bias is not None:
                    of_bias += error.sum(dim=0)
                error = error.to(precision)
                torch.mm(error, matrix, out=of_entering[rows])
                if of_matrix is not None:
                    of_matrix += error.T @ entering[rows, first:]
        ctx.save_for_backward(of_entering, of_matrix, of_bias)
        ctx.width, ctx.first = width, first
        ctx.mark_non_differentiable(cross_entropy, correct)
        smoothed = (1 - smoothing) * cross_entropy + smoothing * uniform
        return smoothed, cross_entropy, correct

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        of_entering, of_matrix, of_bias = ctx.saved_tensors
        width, needed = ctx.width, ctx.needs_input_grad
        learned = None if of_matrix is None else of_matrix * scale
        return (
            of_entering * scale,
            learned[:, :width] if learned is not None and needed[1] else None,
            learned[:, width - ctx.first :] if learned is not None and needed[2] else None,
            of_bias * scale if of_bias is not None and needed[3] else None,
            None,
        )
