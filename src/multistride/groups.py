"""Slots: the integer arithmetic that makes a Transformer semi-autoregressive.

A decoder pass is a list of slots. A slot is four integers:

- `token`: the id it reads;
- `position`: the target position it predicts (0 is the first token of the sentence);
- `reach`: how far ahead of the token it reads it predicts (`position` minus the index of that token);
- `group`: when it happens. Slot i sees slot j of the same sequence iff `group[j] <= group[i]`.

Nothing else in the package knows what a group is. A *layout* turns a target sentence into slots:

| layout               | sizes of the groups | reads                              | reach    |
|----------------------|---------------------|------------------------------------|----------|
| autoregressive       | 1, 1, 1, ...        | y[t-1]                             | 1        |
| SAT-K                | K, K, K, ...        | y[t-K], K start symbols first      | K        |
| non-autoregressive   | n                   | start symbols                      | n        |
| arbitrary borders    | any                 | see `teacher_forced`               | its size |
| lookahead-K          | (see `lookahead`)   | clean y, then K-1 mask tokens      | 1 ... K  |

Source: the shift by K and the relaxed causal mask are those of Wang, Zhang, Chen (2018),
"Semi-Autoregressive Neural Machine Translation", arXiv 1808.08583, section 3; equal group sizes
give exactly their layout.

Shapes: B sentences, T target tokens, G groups, N slots.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

PADDING_GROUP = 2**30
"""The group of a slot that is not there. It is larger than any real group, so no real slot sees
it."""

DRAFTS = 2**24
"""Added to the group of a slot it is that of the masks drafting from it, where a pass drafts from
several slots."""

NO_LABEL = -100
"""The label of a slot whose prediction is not asked for; `torch.nn.functional.cross_entropy` skips
it."""


class Slots(NamedTuple):
    """One decoder pass: four integer tensors of shape [B, N], and nothing else."""

    token: Int[Tensor, "B N"]
    position: Int[Tensor, "B N"]
    reach: Int[Tensor, "B N"]
    group: Int[Tensor, "B N"]

    def to(self, device: torch.device | str) -> Slots:
        """The same slots on another device."""
        return Slots(*(field.to(device) for field in self))


def visibility(seer: Int[Tensor, "B N"], seen: Int[Tensor, "B M"]) -> Bool[Tensor, "B N M"]:
    """Which of `seen` each slot of `seer` attends to, given the groups of both: the relaxed causal
    mask.

    A padding slot sees everything, so no row of an attention matrix is empty; nobody real sees it.
    """
    return seen[:, None, :] <= seer[:, :, None]


def drafting_visibility(
    seer: Int[Tensor, "B N"], seen: Int[Tensor, "B M"]
) -> Bool[Tensor, "B N M"]:
    """The same where groups beyond `DRAFTS` are there: each sees what the slot it drafts from sees,
    and itself.

    Nobody else sees such a group. Without any of them it is `visibility`.
    """
    drafting = (seer >= DRAFTS) & (seer < PADDING_GROUP)
    each_other = seen[:, None, :] == seer[:, :, None]
    return visibility(torch.where(drafting, seer - DRAFTS, seer), seen) | each_other


def equal_sizes(
    lengths: Int[Tensor, "B"], group_size: Int[Tensor, "B"] | int
) -> Int[Tensor, "B G"]:
    """Groups of `group_size` tokens until every one of `lengths` tokens has a group.

    The last group is whole even where the sentence ends inside it, as it is when decoding. Size 1
    is autoregressive, K is SAT-K, and a size of at least the length is non-autoregressive. Rows
    with fewer groups end in zeros.
    """
    sizes = torch.as_tensor(group_size, device=lengths.device).expand_as(lengths)
    counts = (lengths + sizes - 1) // sizes
    order = torch.arange(int(counts.max()) if len(counts) else 0, device=lengths.device)
    return torch.where(order < counts[:, None], sizes[:, None], 0)


def sampled_sizes(
    lengths: Int[Tensor, "B"], largest: Int[Tensor, "B"], generator: torch.Generator | None = None
) -> Int[Tensor, "B G"]:
    """Groups of random sizes, uniform in 1 ... `largest` of their row, until all tokens have a
    group.
    """
    most = int(lengths.max()) if len(lengths) else 0
    draws = torch.rand(len(lengths), most, generator=generator)
    sizes = (draws * largest[:, None]).long() + 1
    borders = sizes.cumsum(1) - sizes
    return torch.where(borders < lengths[:, None], sizes, 0)


def teacher_forced(
    target: Int[Tensor, "B T"],
    lengths: Int[Tensor, "B"],
    sizes: Int[Tensor, "B G"],
    start_token: int,
    proposals: Int[Tensor, "B G"] | None = None,
) -> tuple[Slots, Int[Tensor, "B N"]]:
    """The slots of whole sentences, and the token each slot is to predict.

    Group g commits `sizes[g]` tokens from its border on; when it runs, every token before the
    border is known. Its slots read the tokens that no earlier group has read (those the group
    before committed), or the last `sizes[g]` known tokens where that is more, padded with start
    symbols at the beginning of the sentence. All of its slots have reach `sizes[g]`, so the last
    `sizes[g]` of them predict the group. With equal sizes every token is read once, by the slot
    `reach` positions ahead. After a larger group come slots that only read: what they point at is
    already known, so they have no label. Nor have positions at or after `lengths`.

    Returns slots and labels, both [B, N]; `NO_LABEL` where nothing is to be predicted.
    """
    before = torch.nn.functional.pad(sizes[:, :-1], (1, 0)) if sizes.shape[1] else sizes
    predicted = sizes if proposals is None else proposals
    widths = torch.where(sizes > 0, torch.maximum(predicted, before), 0)
    borders = sizes.cumsum(1) - sizes
    rows, groups, offset, shape = spread(widths)
    border, size = borders[rows, groups], predicted[rows, groups]
    read = border - widths[rows, groups] + offset
    position = read + size
    token = _tokens_at(target, rows, read, start_token)
    asked = (position >= border) & (position < lengths[rows])
    label = torch.where(asked, _tokens_at(target, rows, position, NO_LABEL), NO_LABEL)
    slots = _arrange(widths, shape, token, position, size, groups, start_token)
    return slots, fill(widths, shape, label, NO_LABEL)


def step_slots(
    known: Int[Tensor, "B T"],
    border: Int[Tensor, "B"],
    unread: Int[Tensor, "B"],
    group_size: Int[Tensor, "B"],
    group: Int[Tensor, "B"],
    start_token: int,
) -> Slots:
    """The slots of one decoding step: what `teacher_forced` lays out for a single group.

    `border` tokens of `known` are committed, the last `unread` of them after the previous step's
    slots were made. The tokens of the group stand in the last `group_size` slots that are not
    padding, one after another; rows with fewer slots are padded on the left, so these are the last
    columns in every row.
    """
    widths = torch.maximum(group_size, unread)
    most = int(widths.max())
    offset = torch.arange(most, device=known.device) - (most - widths)[:, None]
    read = (border - widths)[:, None] + offset
    rows = torch.arange(len(known), device=known.device)[:, None].expand_as(read)
    real = offset >= 0
    token = torch.where(real, _tokens_at(known, rows, read, start_token), start_token)
    position = torch.where(real, read + group_size[:, None], 0)
    reach = torch.where(real, group_size[:, None], 1)
    return Slots(token, position, reach, torch.where(real, group[:, None], PADDING_GROUP))


def even_step_slots(
    known: Int[Tensor, "B T"],
    border: int,
    unread: int,
    group_size: int,
    group: int,
    start_token: int,
) -> Slots:
    """`step_slots` of rows that all stand at the same border, in a few operations: the usual
    case.
    """
    width = max(group_size, unread)
    token = known[:, max(border - width, 0) : border]
    if width > border:
        token = torch.nn.functional.pad(token, (width - border, 0), value=start_token)
    position = torch.arange(border - width, border, device=known.device) + group_size
    return Slots(
        token,
        position.expand_as(token),
        torch.full_like(token, group_size),
        torch.full_like(token, group),
    )


def prompt_slots(
    prompt: Int[Tensor, "B T"],
    lengths: Int[Tensor, "B"],
    start_token: int,
    start_symbol: bool = True,
) -> Slots:
    """The slots that read what is known before decoding begins, all but its last token, which the
    first step reads.

    They are autoregressive: the layout of `lookahead` without masks. With `start_symbol` false no
    start symbol is read before the first token, as in causal models that were trained without one.
    Rows are padded on the left.
    """
    first = 0 if start_symbol else 1
    counts = (lengths - first).clamp(min=0)
    most = int(counts.max()) if len(counts) else 0
    offset = torch.arange(most, device=prompt.device) - (most - counts)[:, None]
    rows = torch.arange(len(prompt), device=prompt.device)[:, None].expand_as(offset)
    real, position = offset >= 0, offset + first
    token = torch.where(real, _tokens_at(prompt, rows, position - 1, start_token), start_token)
    position = torch.where(real, position, 0)
    return Slots(
        token, position, torch.ones_like(position), torch.where(real, position, PADDING_GROUP)
    )


def lookahead(
    target: Int[Tensor, "B T"],
    lengths: Int[Tensor, "B"],
    anchors: Int[Tensor, "B"],
    group_size: Int[Tensor, "B"] | int,
    start_token: int,
    mask_token: int,
) -> tuple[Slots, Int[Tensor, "B N"]]:
    """The slots that draft from an exact autoregressive cache, and the token each slot is to
    predict.

    The first `anchors` target tokens are read as they are, in autoregressive order (reach 1, one
    group each, so they also verify a draft); after them stand K-1 mask tokens of reach 2 ... K in
    one last group, which see all clean slots and each other. Clean slots see no mask, so the cache
    they write is the autoregressive one.

    `anchors` lie in 0 ... T. Returns slots and labels, both [B, N].
    """
    sizes = torch.as_tensor(group_size, device=lengths.device).expand_as(lengths)
    widths = torch.stack([anchors + 1, sizes - 1], dim=1)
    rows, parts, offset, shape = spread(widths)
    masked = parts == 1
    position = torch.where(masked, anchors[rows] + 1 + offset, offset)
    token = torch.where(masked, mask_token, _tokens_at(target, rows, position - 1, start_token))
    reach = torch.where(masked, offset + 2, 1)
    group = torch.where(masked, anchors[rows] + 1, offset)
    label = _tokens_at(target, rows, position, NO_LABEL)
    label = torch.where(position < lengths[rows], label, NO_LABEL)
    slots = _arrange(widths, shape, token, position, reach, group, start_token)
    return slots, fill(widths, shape, label, NO_LABEL)


def draft_slots(
    known: Int[Tensor, "B T"],
    border: Int[Tensor, "B"],
    drafts: Int[Tensor, "B D"],
    counts: Int[Tensor, "B"],
    group_size: Int[Tensor, "B"] | int,
    start_token: int,
    mask_token: int,
) -> Slots:
    """The slots of one round of drafting and checking: what `lookahead` lays out, less what was
    read before.

    `border` tokens of `known` are committed and all but the last of them were read. Clean slots
    read that one and the first `counts` of the `drafts` behind it, so they say what really follows
    each of them; `group_size` - 1 masks draft further, as if all drafts were right. Rows with fewer
    slots are padded on the left: the last `group_size` columns of a row are its last clean slot and
    its masks.
    """
    widths = counts + torch.as_tensor(group_size, device=known.device)
    most = int(widths.max()) if len(counts) else 0
    offset = torch.arange(most, device=known.device) - (most - widths)[:, None]
    rows = torch.arange(len(known), device=known.device)[:, None].expand_as(offset)
    real, masked = offset >= 0, offset > counts[:, None]
    last = _tokens_at(known, rows, (border - 1)[:, None].expand_as(offset), start_token)
    clean = torch.where(offset == 0, last, _tokens_at(drafts, rows, offset - 1, start_token))
    token = torch.where(real, torch.where(masked, mask_token, clean), start_token)
    position = torch.where(real, border[:, None] + offset, 0)
    reach = torch.where(masked, offset - counts[:, None] + 1, 1)
    group = torch.where(masked, (border + counts)[:, None] + 1, position)
    return Slots(token, position, reach, torch.where(real, group, PADDING_GROUP))


def reveal(
    slots: Slots, labels: Int[Tensor, "B N"], shown: Bool[Tensor, "B N"], start_token: int
) -> tuple[Slots, Int[Tensor, "B M"]]:
    """Let every group see some of its own tokens: what `shown` slots were to predict, read by slots
    of its own.

    A revealed token stands in an extra slot of reach 1 at the end of the row, of the group it was
    revealed to; the slot that was to predict it loses its label. Without label or in groups of
    reach 1 nothing is revealed. This is the layout of glancing training (Qian et al. 2021, arXiv
    2008.07905, section 3.1) with tokens drawn at random.

    Returns slots and labels, both [B, M] with M the larger by the most tokens revealed in a row.
    """
    shown = shown & (labels != NO_LABEL) & (slots.reach > 1)
    counts = shown.sum(1, keepdim=True)
    rows, places = torch.nonzero(shown, as_tuple=True)
    shape = (len(labels), int(counts.max()) if len(labels) else 0)

    def appended(field: Tensor, values: Tensor, padding: int) -> Tensor:
        return torch.cat([field, fill(counts, shape, values, padding)], dim=1)

    longer = Slots(
        appended(slots.token, labels[rows, places], start_token),
        appended(slots.position, slots.position[rows, places] + 1, 0),
        appended(slots.reach, torch.ones_like(rows), 1),
        appended(slots.group, slots.group[rows, places], PADDING_GROUP),
    )
    hidden = torch.where(shown, NO_LABEL, labels)
    return longer, appended(hidden, torch.full_like(rows, NO_LABEL), NO_LABEL)


def previous_in_group(slots: Slots, labels: Int[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """The token before the one each slot predicts, where the same group predicts it too; `NO_LABEL`
    elsewhere.

    It is what a group cannot see of itself and what the Markov head is given.
    """
    left = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=NO_LABEL)
    group = torch.nn.functional.pad(slots.group[:, :-1], (1, 0), value=-1)
    return torch.where((group == slots.group) & (labels != NO_LABEL), left, NO_LABEL)


def previous_in_draft(slots: Slots, labels: Int[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """The same for the layout `lookahead`: the token before the one each mask predicts; `NO_LABEL`
    elsewhere.

    The first mask follows what the last clean slot predicts, which nobody has read yet when both
    are asked.
    """
    left = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=NO_LABEL)
    return torch.where((slots.reach > 1) & (labels != NO_LABEL), left, NO_LABEL)


def spread(widths: Int[Tensor, "B G"]) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """For every slot of a layout in reading order: its row, its group, its place in the group; and
    [B, N].
    """
    batch, count = widths.shape
    flat = widths.flatten()
    owner = torch.arange(len(flat), device=widths.device).repeat_interleave(flat)
    first = flat.cumsum(0) - flat
    offset = torch.arange(len(owner), device=widths.device) - first[owner]
    longest = int(widths.sum(1).max()) if batch and count else 0
    columns = max(count, 1)
    return owner // columns, owner % columns, offset, (batch, longest)


def fill(
    widths: Int[Tensor, "B G"], shape: tuple[int, int], values: Tensor, padding: int
) -> Tensor:
    """Values in reading order as a [B, N] tensor, padded on the right."""
    table = torch.full(shape, padding, dtype=torch.long, device=values.device)
    table[torch.arange(shape[1], device=values.device) < widths.sum(1)[:, None]] = values
    return table


def _arrange(
    widths: Tensor,
    shape: tuple[int, int],
    token: Tensor,
    position: Tensor,
    reach: Tensor,
    group: Tensor,
    start_token: int,
) -> Slots:
    return Slots(
        fill(widths, shape, token, start_token),
        fill(widths, shape, position, 0),
        fill(widths, shape, reach, 1),
        fill(widths, shape, group, PADDING_GROUP),
    )


def _tokens_at(tokens: Int[Tensor, "B T"], rows: Tensor, index: Tensor, otherwise: int) -> Tensor:
    """`tokens[rows, index]`, and `otherwise` where the index lies outside the sentence."""
    if tokens.shape[1] == 0:
        return torch.full_like(index, otherwise)
    inside = (index >= 0) & (index < tokens.shape[1])
    return torch.where(inside, tokens[rows, index.clamp(0, tokens.shape[1] - 1)], otherwise)
