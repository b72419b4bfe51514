"""Slots: the integer arithmetic that makes a Transformer semi-autoregressive.

A decoder pass is a list of slots. A slot is four integers:

- `token`: the id it reads;
- `position`: the target position it predicts (0 is the first token of the sentence);
- `reach`: how far ahead it predicts (`position` minus the index of the token it reads);
- `group`: when it happens. Slot i sees slot j of the same sequence iff `group[j] <= group[i]`.

A *layout* turns a target sentence into slots. All of them are here, as integer arithmetic; the
modules of the model receive token, position and reach, and a mask made of the groups:

| layout               | sizes of the groups | reads                              | reach    |
|----------------------|---------------------|------------------------------------|----------|
| autoregressive       | 1, 1, 1, ...        | y[t-1]                             | 1        |
| SAT-K                | K, K, K, ...        | y[t-K], K start symbols first      | K        |
| non-autoregressive   | n                   | start symbols                      | n        |
| arbitrary borders    | any                 | see `teacher_forced`               | its size |
| lookahead-K          | (see `lookahead`)   | clean y, then K-1 mask tokens      | 1 ... K  |

Some layouts begin with a known prompt (`after_prompts`, `sizes_behind`, `without_start`,
`prompt_slots`), and some draft from several slots at once (`draft_masks`, `draft_everywhere`).

Source: the shift by K and the relaxed causal mask are those of Wang, Zhang, Chen (2018),
"Semi-Autoregressive Neural Machine Translation", arXiv 1808.08583, section 3; equal group sizes
give exactly their layout.

Shapes: B sentences, T target tokens, G groups, H groups including those of prompts, N slots, M
other slots, A anchors (clean slots to draft from), D draft tokens or masks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

PADDING_GROUP = 2**30
"""The group of a padding slot: larger than any real group, so no real slot sees it."""

DRAFTS = 2**24
"""Offset of mask groups in passes that draft from several slots.

The masks that draft from a slot of group g have group g + `DRAFTS` (`draft_everywhere`)."""

NO_LABEL = -100
"""The label of a slot that predicts nothing; `torch.nn.functional.cross_entropy` skips it."""


class Slots(NamedTuple):
    """One decoder pass: four integer tensors of shape [B, N], and nothing else."""

    token: Int[Tensor, "B N"]
    position: Int[Tensor, "B N"]
    reach: Int[Tensor, "B N"]
    group: Int[Tensor, "B N"]

    def to(self, device: torch.device | str) -> Slots:
        """Return the slots on `device`."""
        return Slots(*(field.to(device) for field in self))


class Drafts(NamedTuple):
    """Draft tokens [B, D], of which the first `counts` [B] of each row are to be checked."""

    tokens: Int[Tensor, "B D"]
    counts: Int[Tensor, "B"]


def visibility(seer: Int[Tensor, "B N"], seen: Int[Tensor, "B M"]) -> Bool[Tensor, "B N M"]:
    """Return the relaxed causal mask: which slots of `seen` each slot of `seer` attends to.

    Arguments are the groups of both. A padding slot sees everything, so that no row of an attention
    matrix is empty; no real slot sees it.
    """
    return seen[:, None, :] <= seer[:, :, None]


def drafting_visibility(
    seer: Int[Tensor, "B N"], seen: Int[Tensor, "B M"]
) -> Bool[Tensor, "B N M"]:
    """Return the mask of a pass that may hold the slots of `draft_everywhere`.

    A mask slot (group `DRAFTS` or more) sees what the slot it drafts from sees, and the masks of
    its own group; no other slot sees it. Without mask slots this is `visibility`.
    """
    drafting = (seer >= DRAFTS) & (seer < PADDING_GROUP)
    each_other = seen[:, None, :] == seer[:, :, None]
    return visibility(torch.where(drafting, seer - DRAFTS, seer), seen) | each_other


def draft_visibility(
    clean: Int[Tensor, "B N"], drafted: Int[Tensor, "B D"]
) -> Bool[Tensor, "B D M"]:
    """Return what the slots of `draft_masks` see: clean slots up to their anchor, then each other.

    Arguments are the groups of clean slots and of masks; M is N + D.
    """
    return torch.cat(
        [visibility(drafted, clean), drafted[:, None, :] == drafted[:, :, None]], dim=2
    )


def equal_sizes(
    lengths: Int[Tensor, "B"], group_size: Int[Tensor, "B"] | int
) -> Int[Tensor, "B G"]:
    """Return groups of `group_size` tokens, as many as cover `lengths` tokens.

    The last group is whole even where the sentence ends inside it, as in decoding. Size 1 is
    autoregressive, K is SAT-K, and a size of at least the length is non-autoregressive. Rows with
    fewer groups end in zeros.
    """
    sizes = torch.as_tensor(group_size, device=lengths.device).expand_as(lengths)
    counts = (lengths + sizes - 1) // sizes
    order = torch.arange(int(counts.max()) if len(counts) else 0, device=lengths.device)
    return torch.where(order < counts[:, None], sizes[:, None], 0)


def sampled_sizes(
    lengths: Int[Tensor, "B"], largest: Int[Tensor, "B"], generator: torch.Generator | None = None
) -> Int[Tensor, "B G"]:
    """Return groups of random sizes, uniform in 1 ... `largest`, that cover `lengths`."""
    most = int(lengths.max()) if len(lengths) else 0
    draws = torch.rand(len(lengths), most, generator=generator)
    sizes = (draws * largest[:, None]).long() + 1
    borders = sizes.cumsum(1) - sizes
    return torch.where(borders < lengths[:, None], sizes, 0)


def after_prompts(prompts: Int[Tensor, "B"], sizes: Int[Tensor, "B G"]) -> Int[Tensor, "B H"]:
    """Return `sizes` after one group of size 1 for each token of the row's prompt.

    A prompt is read as at K=1, whatever K follows.
    """
    counts = torch.stack([prompts, (sizes > 0).sum(1)], dim=1)
    rows, parts, offset, shape = spread(counts)
    values = (
        torch.ones_like(offset)
        if sizes.shape[1] == 0
        else sizes[rows, offset.clamp(max=sizes.shape[1] - 1)]
    )
    return fill(counts, shape, torch.where(parts == 0, 1, values), 0)


def sizes_behind(
    known: Int[Tensor, "B"] | int,
    lengths: Int[Tensor, "B"],
    group_size: Int[Tensor, "B"] | int,
) -> Int[Tensor, "B H"]:
    """Return groups of `group_size` that cover `lengths` tokens, the first `known` of which are
    groups of one each: a prompt, or a token that every target is forced to begin with.
    """
    known = torch.as_tensor(known, device=lengths.device).expand_as(lengths)
    return after_prompts(known, equal_sizes((lengths - known).clamp(min=0), group_size))


def teacher_forced(
    target: Int[Tensor, "B T"],
    lengths: Int[Tensor, "B"],
    sizes: Int[Tensor, "B G"],
    start_token: int,
    proposals: Int[Tensor, "B G"] | None = None,
) -> tuple[Slots, Int[Tensor, "B N"]]:
    """Return the slots of whole sentences for training, and the label of each slot.

    Group g commits `sizes[g]` tokens from its border on; when it runs, every token before the
    border is known. Its slots read the tokens that no earlier group has read (those the previous
    group committed), or the last `sizes[g]` known tokens where that is more, padded with start
    symbols at the beginning of the sentence. All of its slots have reach `sizes[g]`, so the last
    `sizes[g]` of them predict the group. With equal sizes every token is read once, by the slot
    `reach` positions ahead. A group after a larger one also has slots that only read: they point at
    known tokens and have no label. Positions at or after `lengths` have none either.

    `proposals` are the tokens that each group predicts, where it commits fewer (adaptive mode).
    Returns slots and labels, both [B, N]; labels are `NO_LABEL` where nothing is predicted.
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
    slots = _arrange(widths, shape, (token, position, size, groups), start_token)
    return slots, fill(widths, shape, label, NO_LABEL)


def step_slots(
    known: Int[Tensor, "B T"],
    border: Int[Tensor, "B"],
    unread: Int[Tensor, "B"],
    group_size: Int[Tensor, "B"],
    group: Int[Tensor, "B"],
    start_token: int,
) -> Slots:
    """Return the slots of one decoding step: those that `teacher_forced` gives a single group.

    `border` tokens of `known` are committed; no slot has read the last `unread` of them yet. The
    last `group_size` slots predict the group, in order. Rows with fewer slots are padded on the
    left, so these are the last columns of every row.
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
    """Return `step_slots` of rows that all have the same border, in fewer operations."""
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
    """Return the slots that read a prompt, all but its last token, which the first step reads.

    They are autoregressive: the clean slots of `lookahead`. With `start_symbol` false no start
    symbol is read before the first token, as in causal models that were trained without one. Rows
    are padded on the left.
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


def without_start(slots: Slots, labels: Int[Tensor, "B N"]) -> tuple[Slots, Int[Tensor, "B N"]]:
    """Return a pass less the slot that reads the start symbol and predicts the first token.

    For causal models without a start symbol (`TransformerConfig.start_symbol` is false): lay out
    the text with a first group of size 1; its slot becomes padding and loses its label.
    """
    first = (slots.position == 0) & (slots.reach == 1)
    group = slots.group.masked_fill(first, PADDING_GROUP)
    return slots._replace(group=group), labels.masked_fill(first, NO_LABEL)


def lookahead(
    target: Int[Tensor, "B T"],
    lengths: Int[Tensor, "B"],
    anchors: Int[Tensor, "B"],
    group_size: Int[Tensor, "B"] | int,
    start_token: int,
    mask_token: int,
) -> tuple[Slots, Int[Tensor, "B N"]]:
    """Return the slots that draft behind an autoregressive prefix, and the label of each slot.

    The first `anchors` target tokens are read in autoregressive order by clean slots (reach 1, one
    group each, so they also verify a draft). K-1 mask tokens of reach 2 ... K follow in one last
    group; they see all clean slots and each other. Clean slots see no mask, so the cache they write
    is the autoregressive one.

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
    slots = _arrange(widths, shape, (token, position, reach, group), start_token)
    return slots, fill(widths, shape, label, NO_LABEL)


def draft_masks(
    target: Int[Tensor, "B T"],
    lengths: Int[Tensor, "B"],
    anchors: Int[Tensor, "B A"],
    group_size: Int[Tensor, "B"] | int,
    mask_token: int,
) -> tuple[Slots, Int[Tensor, "B D"]]:
    """Return the masks of `lookahead` behind many anchors of one text, and the label of each mask.

    A text without a source is long, and its autoregressive slots serve every anchor. So training
    lays the masks out in a second pass over the keys and values of the first, with the mask
    `draft_visibility`.

    For each `a` of `anchors`, K-1 masks of reach 2 ... K follow the autoregressive slot that
    predicts token `a`. Their group is `a`, so they see what that slot sees, and each other; no
    other slot sees them. The anchors of a row are distinct; negative ones are padding.
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


def draft_slots(
    known: Int[Tensor, "B T"],
    border: Int[Tensor, "B"],
    drafts: Drafts,
    group_size: Int[Tensor, "B"] | int,
    start_token: int,
    mask_token: int,
) -> Slots:
    """Return the slots of a step that checks drafts and makes new ones.

    This is `lookahead` less the slots that were read before: `border` tokens of `known` are
    committed, and all but the last of them were read. Clean slots read that one and the `drafts`
    to be checked, so they predict what really follows each; `group_size` - 1 masks draft further,
    as if all drafts were right. Rows with fewer slots are padded on the left: the last
    `group_size` columns of a row are its last clean slot and its masks.
    """
    tokens, counts = drafts
    widths = counts + torch.as_tensor(group_size, device=known.device)
    most = int(widths.max()) if len(counts) else 0
    offset = torch.arange(most, device=known.device) - (most - widths)[:, None]
    rows = torch.arange(len(known), device=known.device)[:, None].expand_as(offset)
    real, masked = offset >= 0, offset > counts[:, None]
    last = _tokens_at(known, rows, (border - 1)[:, None].expand_as(offset), start_token)
    clean = torch.where(offset == 0, last, _tokens_at(tokens, rows, offset - 1, start_token))
    token = torch.where(real, torch.where(masked, mask_token, clean), start_token)
    position = torch.where(real, border[:, None] + offset, 0)
    reach = torch.where(masked, offset - counts[:, None] + 1, 1)
    group = torch.where(masked, (border + counts)[:, None] + 1, position)
    return Slots(token, position, reach, torch.where(real, group, PADDING_GROUP))


def draft_everywhere(
    known: Int[Tensor, "B T"],
    border: Int[Tensor, "B"],
    drafts: Drafts,
    group_size: int,
    start_token: int,
    mask_token: int,
) -> Slots:
    """Return the slots of `draft_slots` with masks behind every clean slot, not only the last.

    Whichever draft turns out wrong, the next ones are then ready. Clean slots come first, padded on
    the left, then K-1 masks for each of them in the same order; they see what their clean slot sees
    and each other (`drafting_visibility`). Masks of padding are padding.
    """
    clean = draft_slots(known, border, drafts, 1, start_token, mask_token)
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


def reveal(
    slots: Slots, labels: Int[Tensor, "B N"], shown: Bool[Tensor, "B N"], start_token: int
) -> tuple[Slots, Int[Tensor, "B M"]]:
    """Reveal to each group some of its own tokens: the labels of the `shown` slots.

    An extra slot of reach 1 at the end of the row reads a revealed token, in the group it is
    revealed to; the slot that predicted it loses its label. Slots without a label or of reach 1
    reveal nothing. This is the layout of glancing training (Qian et al. 2021, arXiv 2008.07905,
    section 3.1) with tokens drawn at random.

    Returns slots and labels, both [B, M]: N plus the largest number of tokens revealed in a row.
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
    """Return the token before each label where the same group predicts it too, else `NO_LABEL`.

    A group cannot see these tokens; the Markov head reads them.
    """
    left = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=NO_LABEL)
    group = torch.nn.functional.pad(slots.group[:, :-1], (1, 0), value=-1)
    return torch.where((group == slots.group) & (labels != NO_LABEL), left, NO_LABEL)


def previous_in_draft(slots: Slots, labels: Int[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """Return the token before the label of each mask of `lookahead`, else `NO_LABEL`.

    The first mask follows the token that the last clean slot predicts in the same pass.
    """
    left = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=NO_LABEL)
    return torch.where((slots.reach > 1) & (labels != NO_LABEL), left, NO_LABEL)


def previous_of_drafts(
    slots: Slots, labels: Int[Tensor, "B D"], target: Int[Tensor, "B T"]
) -> Int[Tensor, "B D"]:
    """Return the token before the label of each mask of `draft_masks`, else `NO_LABEL`."""
    before = target.gather(1, (slots.position - 1).clamp(0, target.shape[1] - 1))
    return torch.where(labels != NO_LABEL, before, NO_LABEL)


def spread(widths: Int[Tensor, "B G"]) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """Return row, group and index within the group of every slot in reading order, and (B, N)."""
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
    """Return values in reading order as a [B, N] tensor, padded on the right."""
    table = torch.full(shape, padding, dtype=torch.long, device=values.device)
    table[torch.arange(shape[1], device=values.device) < widths.sum(1)[:, None]] = values
    return table


def like_lengths(counts: list[int], overhead: int) -> list[int]:
    """Cut rows into parts of like length, each to be padded to its longest row.

    `counts` are lengths of rows, sorted. A part costs its padded size and `overhead`, both in
    slots; the sizes of the parts with the least total cost are returned, in order.

    Raises `ValueError` for counts that are not sorted.
    """
    if counts != sorted(counts):
        raise ValueError("lengths of rows must be sorted")
    lengths, repeats = np.unique(np.array(counts, dtype=np.int64), return_counts=True)
    rows = np.concatenate([[0], repeats.cumsum()])  # a border never splits rows of one length
    least, border = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
    for end in range(1, len(rows)):
        costs = least[:end] + (rows[end] - rows[:end]) * lengths[end - 1] + overhead
        border[end] = costs.argmin()
        least[end] = costs[border[end]]
    sizes, end = [], len(rows) - 1
    while end > 0:
        sizes.append(int(rows[end] - rows[border[end]]))
        end = int(border[end])
    return sizes[::-1]


def _arrange(
    widths: Tensor, shape: tuple[int, int], fields: tuple[Tensor, ...], start_token: int
) -> Slots:
    """Return slots by their token, position, reach and group in reading order."""
    paddings = (start_token, 0, 1, PADDING_GROUP)
    return Slots(*(fill(widths, shape, *field) for field in zip(fields, paddings, strict=True)))


def _tokens_at(tokens: Int[Tensor, "B T"], rows: Tensor, index: Tensor, otherwise: int) -> Tensor:
    """Return `tokens[rows, index]`, or `otherwise` where the index lies outside the sentence."""
    if tokens.shape[1] == 0:
        return torch.full_like(index, otherwise)
    inside = (index >= 0) & (index < tokens.shape[1])
    return torch.where(inside, tokens[rows, index.clamp(0, tokens.shape[1] - 1)], otherwise)
