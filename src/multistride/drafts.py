"""Many drafts of one text at once: the masks of the lookahead layout behind as many places as one
likes.

A text without a source is long, and its autoregressive slots serve every place that is drafted
from. So training lays the masks of many places out in a second pass over the keys and values of the
first, with a mask of its own.

Shapes: B texts, T tokens, N clean slots, A places drafted from, D masks.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from multistride.groups import DRAFTS, NO_LABEL, PADDING_GROUP, Slots, draft_slots, visibility


def drafts(
    target: Int[Tensor, "B T"],
    lengths: Int[Tensor, "B"],
    anchors: Int[Tensor, "B A"],
    group_size: Int[Tensor, "B"] | int,
    mask_token: int,
) -> tuple[Slots, Int[Tensor, "B D"]]:
    """The masks of `groups.lookahead` behind many places of one text, and the token each is to
    predict.

    Behind the autoregressive slot that predicts token `a`, for each `a` of `anchors`, stand K-1
    masks, reach 2 ... K. Their group is `a`, so they see what that slot sees, and by
    `draft_visibility` each other; nobody else sees them. Anchors of a row differ; a negative one is
    none.
    """
    sizes = torch.as_tensor(group_size, device=lengths.device).expand_as(lengths)
    offset = torch.arange(int(sizes.max()) - 1, device=lengths.device)
    anchor = anchors[:, :, None].expand(-1, -1, len(offset)).flatten(1)
    ahead = offset.repeat(anchors.shape[1])[None].expand_as(anchor)
    real = (anchor >= 0) & (ahead < sizes[:, None] - 1)
    position = torch.where(real, anchor + 1 + ahead, 0)
    slots = Slots(
        torch.full_like(position, mask_token),
        position,
        torch.where(real, ahead + 2, 1),
        torch.where(real, anchor, PADDING_GROUP),
    )
    label = target.gather(1, position.clamp(max=target.shape[1] - 1))
    return slots, torch.where(real & (position < lengths[:, None]), label, NO_LABEL)


def draft_visibility(
    clean: Int[Tensor, "B N"], drafted: Int[Tensor, "B D"]
) -> Bool[Tensor, "B D M"]:
    """What the slots of `drafts` see: the clean slots up to their anchor's, then the masks of the
    same anchor.

    Arguments are the groups of both; M is N + D.
    """
    return torch.cat(
        [visibility(drafted, clean), drafted[:, None, :] == drafted[:, :, None]], dim=2
    )


def previous_of_drafts(
    slots: Slots, labels: Int[Tensor, "B D"], target: Int[Tensor, "B T"]
) -> Int[Tensor, "B D"]:
    """The token before the one each mask predicts, which none of them sees; `NO_LABEL` where it has
    no label.
    """
    before = target.gather(1, (slots.position - 1).clamp(0, target.shape[1] - 1))
    return torch.where(labels != NO_LABEL, before, NO_LABEL)


def draft_everywhere(
    known: Int[Tensor, "B T"],
    border: Int[Tensor, "B"],
    drafted: Int[Tensor, "B E"],
    counts: Int[Tensor, "B"],
    group_size: int,
    start_token: int,
    mask_token: int,
) -> Slots:
    """The slots of `groups.draft_slots` where every clean slot drafts, not the last one alone.

    So whichever of the drafts turns out wrong, the next ones are there. First come the clean slots,
    padded on the left, then K-1 masks for each of them in the same order; they see what it sees and
    each other (`groups.drafting_visibility`). The masks of padding are padding too.
    """
    clean = draft_slots(known, border, drafted, counts, 1, start_token, mask_token)
    real = (clean.group != PADDING_GROUP)[:, :, None]
    ahead = torch.arange(1, group_size, device=known.device).expand(*clean.group.shape, -1)
    masks = Slots(
        torch.full_like(ahead, mask_token),
        torch.where(real, clean.position[:, :, None] + ahead, 0),
        ahead + 1,
        torch.where(real, clean.group[:, :, None] + DRAFTS, PADDING_GROUP).expand_as(ahead),
    )
    return Slots(
        *(torch.cat([slot, mask.flatten(1)], 1) for slot, mask in zip(clean, masks, strict=True))
    )
