"""From logits to tokens. A picker is made once, outside the loop, and called once a step.

Shapes: R rows still running, K slots of the group, V vocabulary, W tokens listed for a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.model.config import TransformerConfig

PIECE = 500_000
"""Logits worked on at a time; a single sentence is one piece."""


class Picked(NamedTuple):
    """One token for every slot of a group, and its log-probability (natural logarithm); both on the
    CPU.
    """

    tokens: Int[Tensor, "R K"]
    log_probabilities: Float[Tensor, "R K"]


class Shortlist(NamedTuple):
    """The most probable tokens of every slot, best first, and their log-probabilities; both on the
    CPU.
    """

    tokens: Int[Tensor, "R K W"]
    log_probabilities: Float[Tensor, "R K W"]


Picker = Callable[[Float[Tensor, "R K V"]], Picked]
Lister = Callable[[Float[Tensor, "R K V"], int], Shortlist]


def greedy(config: TransformerConfig) -> Picker:
    """Pick the most probable token of each slot; of equally probable ones the lowest id.

    The padding, start and mask symbols are never picked; probabilities are over what can be.
    """
    pickable = without_symbols(config)

    def pick(logits: Float[Tensor, "R K V"]) -> Picked:
        parts = []
        for part in in_pieces(logits):
            scores = pickable(part)
            best, tokens = scores.max(dim=-1)
            parts.append((tokens.cpu(), (best - scores.logsumexp(dim=-1)).cpu()))
        return Picked(*map(torch.cat, zip(*parts, strict=True)))

    return pick


def shortlist(config: TransformerConfig) -> Lister:
    """List the `width` most probable tokens of each slot; of equally probable ones the lowest ids,
    lowest first.

    What is never picked, and what probabilities are over, is as in `greedy`. Where fewer than
    `width` tokens can be picked the others have log-probability minus infinity. No log-probability
    is above 0, not even by rounding.
    """
    pickable = without_symbols(config)

    def listed(logits: Float[Tensor, "R K V"], width: int) -> Shortlist:
        parts = []
        for part in in_pieces(logits):
            scores = pickable(part)
            best, tokens = leading(scores, width)
            log_probabilities = best - scores.logsumexp(dim=-1, keepdim=True)
            parts.append((tokens.cpu(), log_probabilities.clamp(max=0).cpu()))
        return Shortlist(*map(torch.cat, zip(*parts, strict=True)))

    return listed


def in_pieces(logits: Float[Tensor, "R K V"]) -> Sequence[Float[Tensor, "P K V"]]:
    """The rows of large logits a few at a time, so that what is computed from them stays small
    beside them.
    """
    return logits.split(max(1, PIECE // max(1, logits[0].numel()))) if len(logits) else (logits,)


def left_aligned(logits: Float[Tensor, "R N V"], sizes: Int[Tensor, "R"]) -> Float[Tensor, "R K V"]:
    """The last `sizes` columns of each row, its group, aligned on the left; behind a smaller group
    stands its last.

    K is the largest group.
    """
    widest = int(sizes.max())
    if int(sizes.min()) == widest:
        return logits[:, -widest:]
    columns = logits.shape[1] - sizes[:, None] + torch.arange(widest)
    columns = columns.clamp(max=logits.shape[1] - 1).to(logits.device)
    return logits[torch.arange(len(logits), device=logits.device)[:, None], columns]


def leading(
    values: Float[Tensor, "*rows N"], count: int
) -> tuple[Float[Tensor, "*rows W"], Int[Tensor, "*rows W"]]:
    """The `count` largest values of each row (all N if there are fewer), largest first, and their
    places.

    Of equal values the one at the lower place comes first. `topk` alone does not promise that:
    among values equal to the last one taken it may take any. Rows where that happens are sorted in
    full; they are rare.
    """
    count = min(count, values.shape[-1])
    best, places = values.topk(min(count + 1, values.shape[-1]))
    last, next_one = best[..., count - 1], best[..., -1]
    places = places[..., :count].sort(dim=-1).values
    best, order = values.gather(-1, places).sort(dim=-1, descending=True, stable=True)
    places = places.gather(-1, order)
    open_border = (last == next_one) & (last > float("-inf"))
    if count < values.shape[-1] and bool(open_border.any()):
        places[open_border] = values[open_border].argsort(dim=-1, descending=True, stable=True)[
            :, :count
        ]
    return best, places


def without_symbols(
    config: TransformerConfig,
) -> Callable[[Float[Tensor, "R K V"]], Float[Tensor, "R K V"]]:
    """Float32 logits in which the padding, start and mask symbols, or what a model names instead,
    are impossible.
    """
    never = torch.tensor(config.unpicked, dtype=torch.long)
    return lambda logits: logits.float().index_fill(-1, never.to(logits.device), float("-inf"))
