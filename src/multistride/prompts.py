"""What is known of a text before it is written: layouts that begin with it.

Shapes: B texts, G groups, H groups with those of the prompts, N slots.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from multistride.groups import NO_LABEL, PADDING_GROUP, Slots, fill, spread


def without_start(slots: Slots, labels: Int[Tensor, "B N"]) -> tuple[Slots, Int[Tensor, "B N"]]:
    """The same pass without the slot that reads one start symbol and predicts the first token.

    For causal models whose texts begin with their own first token (`TransformerConfig.start_symbol`
    false): lay out the text with a first group of size 1 and take that group's slot away. It
    becomes padding, without a label.
    """
    first = (slots.position == 0) & (slots.reach == 1)
    group = slots.group.masked_fill(first, PADDING_GROUP)
    return slots._replace(group=group), labels.masked_fill(first, NO_LABEL)


def after_prompts(prompts: Int[Tensor, "B"], sizes: Int[Tensor, "B G"]) -> Int[Tensor, "B H"]:
    """The groups `sizes`, in each row behind as many groups of size 1 as its prompt has tokens.

    This is how a text whose first tokens were known is laid out: they are read as at K=1, whatever
    K follows.
    """
    counts = torch.stack([prompts, (sizes > 0).sum(1)], dim=1)
    rows, parts, offset, shape = spread(counts)
    values = (
        torch.ones_like(offset)
        if sizes.shape[1] == 0
        else sizes[rows, offset.clamp(max=sizes.shape[1] - 1)]
    )
    return fill(counts, shape, torch.where(parts == 0, 1, values), 0)
