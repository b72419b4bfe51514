"""Which slots a batch is trained on: every sentence draws a group size, and perhaps a layout of its own.

Shapes: B sentences, N slots.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from multistride.data.batch import Batch
from multistride.groups import (
    NO_LABEL,
    PADDING_GROUP,
    Slots,
    equal_sizes,
    lookahead,
    previous_in_draft,
    previous_in_group,
    reveal,
    sampled_sizes,
    teacher_forced,
)
from multistride.model.config import TransformerConfig
from multistride.train.config import GroupsConfig


class TrainingPass(NamedTuple):
    """A decoder pass and what it is to predict.

    `previous` is what `groups.previous_in_group` says, or `groups.previous_in_draft` where a draft is laid out.
    """

    slots: Slots
    labels: Int[Tensor, "B N"]
    previous: Int[Tensor, "B N"]

    def to(self, device: torch.device | str) -> TrainingPass:
        """The same pass on another device."""
        return TrainingPass(self.slots.to(device), self.labels.to(device), self.previous.to(device))

    def labelled(self) -> int:
        """The number of tokens to predict."""
        return int((self.labels != NO_LABEL).sum())


class LayoutDrawer:
    """Draws the layouts of batches as a configuration says; all chance comes from the generator it is handed."""

    def __init__(self, groups: GroupsConfig, model: TransformerConfig, word_dropout: float = 0.0) -> None:
        self.groups, self.model, self.word_dropout = groups, model, word_dropout

    def draw(self, batch: Batch, generator: torch.Generator, progress: float = 1.0) -> TrainingPass:
        """The pass of one batch; `progress` is the share of all updates that are done (0 to 1)."""
        group_size = self._group_sizes(len(batch.target_lengths), generator, progress)
        sizes = equal_sizes(batch.target_lengths, group_size)
        if self.groups.random_borders > 0:
            cut = sampled_sizes(batch.target_lengths, group_size, generator)
            sizes = _by_row(self._chosen(len(sizes), self.groups.random_borders, generator), cut, sizes, 0)
        sizes, proposals = self._some_partly_kept(batch.target_lengths, group_size, sizes, generator)
        slots, labels = teacher_forced(batch.target, batch.target_lengths, sizes, self.model.start_token, proposals)
        asked = TrainingPass(slots, labels, previous_in_group(slots, labels))
        if self.groups.lookahead > 0:
            asked = self._some_look_ahead(batch, group_size, asked, generator)
        slots, labels, previous = asked
        glancing = self.groups.glancing * (1 - progress)
        if self.groups.glancing > 0:
            shown = torch.rand(labels.shape, generator=generator) < glancing
            slots, labels = reveal(slots, labels, shown, self.model.start_token)
            previous = pad(previous, (0, labels.shape[1] - previous.shape[1]), value=NO_LABEL)
        if self.word_dropout > 0:
            slots = self._without_some_words(slots, generator)
        return TrainingPass(slots, labels, previous)

    def fixed(self, batch: Batch, group_size: int) -> TrainingPass:
        """The pass of a batch with one group size for all and nothing left to chance."""
        sizes = equal_sizes(batch.target_lengths, group_size)
        slots, labels = teacher_forced(batch.target, batch.target_lengths, sizes, self.model.start_token)
        return TrainingPass(slots, labels, previous_in_group(slots, labels))

    def _group_sizes(self, rows: int, generator: torch.Generator, progress: float) -> Int[Tensor, "B"]:
        mixture = self.groups.at(progress)
        shares = torch.tensor(list(mixture.values()), dtype=torch.float)
        return torch.tensor(list(mixture))[torch.multinomial(shares, rows, replacement=True, generator=generator)]

    def _chosen(self, rows: int, share: float, generator: torch.Generator) -> Bool[Tensor, "B"]:
        return torch.rand(rows, generator=generator) < share

    def _some_partly_kept(
        self,
        lengths: Int[Tensor, "B"],
        group_size: Int[Tensor, "B"],
        sizes: Int[Tensor, "B G"],
        generator: torch.Generator,
    ) -> tuple[Int[Tensor, "B H"], Int[Tensor, "B H"]]:
        """Sizes and proposals of the groups: some rows propose whole groups and commit a random part of each."""
        if self.groups.partial_groups == 0:
            return sizes, sizes
        kept = sampled_sizes(lengths, group_size, generator)
        chosen = self._chosen(len(sizes), self.groups.partial_groups, generator)
        proposed = torch.where(kept > 0, group_size[:, None], 0)
        return _by_row(chosen, kept, sizes, 0), _by_row(chosen, proposed, sizes, 0)

    def _some_look_ahead(
        self, batch: Batch, group_size: Int[Tensor, "B"], asked: TrainingPass, generator: torch.Generator
    ) -> TrainingPass:
        """Give some rows the lookahead layout, each from an anchor drawn anywhere in its sentence."""
        chosen = self._chosen(len(asked.labels), self.groups.lookahead, generator)
        anchors = (torch.rand(len(asked.labels), generator=generator) * batch.target_lengths).long()
        special = self.model.start_token, self.model.mask_token
        drafts, wanted = lookahead(batch.target, batch.target_lengths, anchors, group_size, *special)
        padding = (self.model.start_token, 0, 1, PADDING_GROUP)
        fields = zip(drafts, asked.slots, padding, strict=True)
        return TrainingPass(
            Slots(*(_by_row(chosen, draft, other, value) for draft, other, value in fields)),
            _by_row(chosen, wanted, asked.labels, NO_LABEL),
            _by_row(chosen, previous_in_draft(drafts, wanted), asked.previous, NO_LABEL),
        )

    def _without_some_words(self, slots: Slots, generator: torch.Generator) -> Slots:
        """Replace tokens the decoder reads by the mask symbol (Bowman et al. 2016, arXiv 1511.06349, section 3.1)."""
        dropped = torch.rand(slots.token.shape, generator=generator) < self.word_dropout
        dropped &= slots.token != self.model.start_token
        return slots._replace(token=torch.where(dropped, self.model.mask_token, slots.token))


def _by_row(chosen: Bool[Tensor, "B"], first: Tensor, second: Tensor, padding: int) -> Tensor:
    """The chosen rows of `first`, the others of `second`; both [B, any], the narrower one padded on the right."""
    width = max(first.shape[1], second.shape[1])
    first, second = (pad(part, (0, width - part.shape[1]), value=padding) for part in (first, second))
    return torch.where(chosen[:, None], first, second)
