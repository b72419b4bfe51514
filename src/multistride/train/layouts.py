"""Training layouts: every sentence draws a group size, and perhaps a layout of its own.

Shapes: B sentences, N slots, M slots and drafts, G and H groups, A places to draft from.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from multistride.data.batch import Batch
from multistride.groups import (
    NO_LABEL,
    PADDING_GROUP,
    Slots,
    after_prompts,
    draft_masks,
    equal_sizes,
    lookahead,
    previous_in_draft,
    previous_in_group,
    previous_of_drafts,
    reveal,
    sampled_sizes,
    sizes_behind,
    teacher_forced,
    without_start,
)
from multistride.model.config import TransformerConfig
from multistride.train.config import GroupsConfig


class TrainingPass(NamedTuple):
    """A decoder pass and what it is to predict.

    `previous` is what `groups.previous_in_group` says, or `groups.previous_in_draft` where a draft
    is laid out. In texts without sources many drafts are laid out at once: their slots are
    `drafts`, their labels the last ones. `entering` is what the frozen layers below adapters make
    of the slots, where that is known (`train.trunk`).
    """

    slots: Slots
    labels: Int[Tensor, "B M"]
    previous: Int[Tensor, "B M"]
    drafts: Slots | None = None
    entering: Float[Tensor, "B N D"] | None = None

    def to(self, device: torch.device | str) -> TrainingPass:
        """Return the pass on another device."""
        drafts = None if self.drafts is None else self.drafts.to(device)
        entering = None if self.entering is None else self.entering.to(device)
        return TrainingPass(
            self.slots.to(device),
            self.labels.to(device),
            self.previous.to(device),
            drafts,
            entering,
        )

    def labelled(self) -> int:
        """The number of tokens to predict."""
        return int((self.labels != NO_LABEL).sum())


class LayoutDrawer:
    """Draws the layouts of batches as a configuration says; all chance comes from the generator it
    is handed.
    """

    def __init__(
        self, groups: GroupsConfig, model: TransformerConfig, word_dropout: float = 0.0
    ) -> None:
        self.groups, self.model, self.word_dropout = groups, model, word_dropout

    def draw(self, batch: Batch, generator: torch.Generator, progress: float = 1.0) -> TrainingPass:
        """The pass of one batch; `progress` is the share of all updates that are done (0 to 1)."""
        group_size = self._group_sizes(len(batch.target_lengths), generator, progress)
        if batch.known is not None:
            return self._of_texts(batch, batch.known, group_size, generator, progress)
        forced = torch.full_like(batch.target_lengths, self.model.forced_tokens)
        sizes, proposals = self._sizes(forced, batch.target_lengths, group_size, generator)
        slots, labels = teacher_forced(
            batch.target, batch.target_lengths, sizes, self.model.start_token, proposals
        )
        asked = TrainingPass(slots, labels, previous_in_group(slots, labels))
        if self.groups.lookahead > 0:
            asked = self._some_look_ahead(batch, group_size, asked, generator)
        return self._harder(asked, generator, progress)

    def _harder(
        self, asked: TrainingPass, generator: torch.Generator, progress: float
    ) -> TrainingPass:
        """Return the pass with some tokens of groups revealed, and some input words masked."""
        slots, labels, previous = asked[:3]
        glancing = self.groups.glancing * (1 - progress)
        if self.groups.glancing > 0:
            shown = torch.rand(labels.shape, generator=generator) < glancing
            slots, labels = reveal(slots, labels, shown, self.model.start_token)
            previous = pad(previous, (0, labels.shape[1] - previous.shape[1]), value=NO_LABEL)
        if self.word_dropout > 0:
            slots = self._without_some_words(slots, generator)
        return TrainingPass(slots, labels, previous)

    def _of_texts(
        self,
        batch: Batch,
        known: Int[Tensor, "B"],
        group_size: Int[Tensor, "B"],
        generator: torch.Generator,
        progress: float,
    ) -> TrainingPass:
        """The pass of a batch of windows: each begins with a prompt of random length, read and
        learned as at K=1.

        It holds the known tokens and up to half of the others; the rest is laid out in groups. Some
        rows are prompts as a whole, and are drafted from in many places.
        """
        lengths = batch.target_lengths
        least = known.clamp(min=0 if self.model.start_symbol else 1)
        prompts = (
            least + (torch.rand(len(lengths), generator=generator) * (lengths - least) / 2).long()
        )
        drafting = self._chosen(len(lengths), self.groups.lookahead, generator) & (group_size > 1)
        prompts = torch.where(drafting, lengths, prompts)
        sizes, proposals = self._sizes(prompts, lengths, group_size, generator)
        asked = self._harder(self._of_windows(batch, known, sizes, proposals), generator, progress)
        if not bool(drafting.any()):
            return asked
        if (
            self.model.adapter is not None
        ):  # the slots of the text itself have nothing that could learn
            asked = asked._replace(labels=torch.full_like(asked.labels, NO_LABEL))
        return _with_drafts(
            asked, batch, self._anchors(least, lengths, drafting, generator), group_size, self.model
        )

    def _of_windows(
        self,
        batch: Batch,
        known: Int[Tensor, "B"],
        sizes: Int[Tensor, "B H"],
        proposals: Int[Tensor, "B H"],
    ) -> TrainingPass:
        """Windows in groups of `sizes`; known tokens have no label."""
        slots, labels = teacher_forced(
            batch.target, batch.target_lengths, sizes, self.model.start_token, proposals
        )
        labels = labels.masked_fill(slots.position < known[:, None], NO_LABEL)
        if not self.model.start_symbol:
            slots, labels = without_start(slots, labels)
        return TrainingPass(slots, labels, previous_in_group(slots, labels))

    def _anchors(
        self,
        least: Int[Tensor, "B"],
        lengths: Int[Tensor, "B"],
        drafting: Bool[Tensor, "B"],
        generator: torch.Generator | None,
    ) -> Int[Tensor, "B A"]:
        """Places to draft from, different ones in each row: drawn by chance, or spread evenly
        without a generator.

        Rows that do not draft, and texts too short for so many, have negative ones.
        """
        place = torch.arange(int(lengths.max()))
        allowed = (place >= least[:, None]) & (place < lengths[:, None] - 1) & drafting[:, None]
        most = min(self.groups.anchors, int(allowed.sum(1).max()))
        order = torch.rand(allowed.shape, generator=generator)
        if generator is None:
            stride = (lengths - least).clamp(min=1)[:, None] / max(most, 1)
            order = 1 - ((place - least[:, None]) % stride) / stride
        values, anchors = order.masked_fill(~allowed, -1).topk(most, dim=1)
        return torch.where(values >= 0, anchors, -1)

    def fixed(self, batch: Batch, group_size: int) -> TrainingPass:
        """The pass of a batch with one group size for all and nothing left to chance."""
        lengths = batch.target_lengths
        if batch.known is not None:
            least = batch.known.clamp(min=0 if self.model.start_symbol else 1)
            drafting = torch.full_like(
                lengths, group_size > 1 and self.groups.lookahead == 1
            ).bool()
            prompts = torch.where(drafting, lengths, least)
            sizes = sizes_behind(prompts, lengths, group_size)
            asked = self._of_windows(batch, batch.known, sizes, sizes)
            if not bool(drafting.any()):
                return asked
            asked = asked._replace(labels=torch.full_like(asked.labels, NO_LABEL))
            anchors = self._anchors(least, lengths, drafting, None)
            return _with_drafts(
                asked, batch, anchors, torch.full_like(lengths, group_size), self.model
            )
        sizes = sizes_behind(self.model.forced_tokens, batch.target_lengths, group_size)
        slots, labels = teacher_forced(
            batch.target, batch.target_lengths, sizes, self.model.start_token
        )
        return TrainingPass(slots, labels, previous_in_group(slots, labels))

    def _group_sizes(
        self, rows: int, generator: torch.Generator, progress: float
    ) -> Int[Tensor, "B"]:
        mixture = self.groups.at(progress)
        shares = torch.tensor(list(mixture.values()), dtype=torch.float)
        return torch.tensor(list(mixture))[
            torch.multinomial(shares, rows, replacement=True, generator=generator)
        ]

    def _chosen(self, rows: int, share: float, generator: torch.Generator) -> Bool[Tensor, "B"]:
        return torch.rand(rows, generator=generator) < share

    def _sizes(
        self,
        known: Int[Tensor, "B"],
        lengths: Int[Tensor, "B"],
        group_size: Int[Tensor, "B"],
        generator: torch.Generator,
    ) -> tuple[Int[Tensor, "B H"], Int[Tensor, "B H"]]:
        """Sizes and proposals of the groups of each row, behind `known` tokens read as at K=1.

        Some rows have groups of random sizes, and some propose whole groups and commit a random
        part of each.
        """
        rest = lengths - known
        sizes = equal_sizes(rest, group_size)
        if self.groups.random_borders > 0:
            cut = sampled_sizes(rest, group_size, generator)
            chosen = self._chosen(len(sizes), self.groups.random_borders, generator)
            sizes = _by_row(chosen, cut, sizes, 0)
        proposals = sizes
        if self.groups.partial_groups > 0:
            kept = sampled_sizes(rest, group_size, generator)
            chosen = self._chosen(len(sizes), self.groups.partial_groups, generator)
            proposed = torch.where(kept > 0, group_size[:, None], 0)
            proposals = _by_row(chosen, proposed, sizes, 0)
            sizes = _by_row(chosen, kept, sizes, 0)
        return after_prompts(known, sizes), after_prompts(known, proposals)

    def _some_look_ahead(
        self,
        batch: Batch,
        group_size: Int[Tensor, "B"],
        asked: TrainingPass,
        generator: torch.Generator,
    ) -> TrainingPass:
        """Give some rows the lookahead layout, each from an anchor drawn anywhere in its
        sentence behind a forced first token.
        """
        chosen = self._chosen(len(asked.labels), self.groups.lookahead, generator)
        forced = self.model.forced_tokens
        drawn = torch.rand(len(asked.labels), generator=generator)
        anchors = forced + (drawn * (batch.target_lengths - forced)).long()
        special = self.model.start_token, self.model.mask_token
        drafts, wanted = lookahead(
            batch.target, batch.target_lengths, anchors, group_size, *special
        )
        padding = (self.model.start_token, 0, 1, PADDING_GROUP)
        fields = zip(drafts, asked.slots, padding, strict=True)
        return TrainingPass(
            Slots(*(_by_row(chosen, draft, other, value) for draft, other, value in fields)),
            _by_row(chosen, wanted, asked.labels, NO_LABEL),
            _by_row(chosen, previous_in_draft(drafts, wanted), asked.previous, NO_LABEL),
        )

    def _without_some_words(self, slots: Slots, generator: torch.Generator) -> Slots:
        """Replace tokens the decoder reads by the mask symbol (Bowman et al. 2016, arXiv
        1511.06349, section 3.1).
        """
        dropped = torch.rand(slots.token.shape, generator=generator) < self.word_dropout
        dropped &= slots.token != self.model.start_token
        return slots._replace(token=torch.where(dropped, self.model.mask_token, slots.token))


def _with_drafts(
    asked: TrainingPass,
    batch: Batch,
    anchors: Int[Tensor, "B A"],
    group_size: Int[Tensor, "B"],
    model: TransformerConfig,
) -> TrainingPass:
    """The pass, and drafts from the anchors behind it."""
    slots, labels = draft_masks(
        batch.target, batch.target_lengths, anchors, group_size, model.mask_token
    )
    previous = previous_of_drafts(slots, labels, batch.target)
    return TrainingPass(
        asked.slots,
        torch.cat([asked.labels, labels], 1),
        torch.cat([asked.previous, previous], 1),
        slots,
    )


def _by_row(chosen: Bool[Tensor, "B"], first: Tensor, second: Tensor, padding: int) -> Tensor:
    """The chosen rows of `first`, the others of `second`; both [B, any], the narrower one padded on
    the right.
    """
    width = max(first.shape[1], second.shape[1])
    first, second = (
        pad(part, (0, width - part.shape[1]), value=padding) for part in (first, second)
    )
    return torch.where(chosen[:, None], first, second)
