"""Memory of the int8 engine: the slots of every row, and which of them a new slot sees.

Shapes: B sentences, N new slots, M slots of the longest row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from multistride.engines.int8.buffers import EncodedSource, Networks, Pool, Step
from multistride.engines.int8.even import EvenMemory
from multistride.groups import PADDING_GROUP, Slots, drafting_visibility


class Placement(NamedTuple):
    """The place of new slots: after the `start` [B] slots of each row, in the `order` [B, N].

    `order` None: as they are. `visible` says which slots they then see, None for all.
    """

    start: Int[Tensor, "B"]
    order: Int[Tensor, "B N"] | None
    visible: Bool[Tensor, "B N M"] | None


class PackedGroups:
    """The groups of cached slots whose rows have no holes: padding is at the end of a row.

    So the slots of a sentence have the indices they would have alone, and sums over them are the
    same to the last bit. `model.cache.CachedGroups` leaves the holes.
    """

    def __init__(self) -> None:
        self._table: Int[Tensor, "B M"] | None = None
        self._counts = torch.zeros(0, dtype=torch.long)
        self._alike, self._latest = True, 0  # rows are equally long; no group is later

    @property
    def length(self) -> int:
        """The number of slots of the longest row (M)."""
        return 0 if self._table is None else self._table.shape[1]

    def extend(self, group: Int[Tensor, "B N"]) -> Placement:
        """Announce N new slots in each row, some of them padding; return where they go."""
        if self._table is None:
            self._table, self._counts = group[:, :0], group.new_zeros(len(group))
        real = group != PADDING_GROUP
        start, order, table = self._counts, None, self._table
        earliest, latest = (int(bound) for bound in group.aminmax())
        if latest == PADDING_GROUP:
            latest = int(group.masked_fill(~real, 0).max())
            order = (~real).to(torch.uint8).sort(dim=1, stable=True).indices
            group = group.gather(1, order)
        if self._alike:
            table = torch.cat([table, group], dim=1)
        else:
            longer = table.new_full((len(group), table.shape[1] + group.shape[1]), PADDING_GROUP)
            longer[:, : table.shape[1]] = table
            table = longer.scatter(1, start[:, None] + torch.arange(group.shape[1]), group)
        visible = None
        if order is not None or not (self._alike and earliest == latest >= self._latest):
            visible = drafting_visibility(group, table)
            visible = None if bool(visible.all()) else visible
        self._table, self._counts = table, start + real.sum(1)
        self._latest = max(self._latest, latest)
        self._trim()
        return Placement(start, order, visible)

    def truncate(self, counts: Int[Tensor, "B"]) -> None:
        """Forget the last `counts` slots of each row."""
        assert self._table is not None
        self._counts = self._counts - counts
        forgotten = torch.arange(self._table.shape[1]) >= self._counts[:, None]
        self._table = self._table.masked_fill(forgotten, PADDING_GROUP)
        self._trim()

    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        """Keep the given rows, in the given order."""
        if self._table is not None:
            self._table, self._counts = self._table[rows], self._counts[rows]
            self._trim()

    def join(self, other: PackedGroups, rows: int) -> None:
        """Put the `rows` rows of another table behind its own."""
        assert self._table is not None
        theirs = self._table.new_empty(rows, 0) if other._table is None else other._table
        counts = self._counts.new_zeros(rows) if other._table is None else other._counts
        length = max(self.length, theirs.shape[1])
        tables = (
            torch.nn.functional.pad(table, (0, length - table.shape[1]), value=PADDING_GROUP)
            for table in (self._table, theirs)
        )
        self._table, self._counts = torch.cat([*tables]), torch.cat([self._counts, counts])
        self._latest = max(self._latest, other._latest)
        self._trim()

    def _trim(self) -> None:
        """End the table at the longest row."""
        assert self._table is not None
        if len(self._counts):
            shortest, longest = (int(bound) for bound in self._counts.aminmax())
            self._table, self._alike = self._table[:, :longest], shortest == longest


class Int8Memory(EvenMemory):
    """Keys and values of the slots so far, and of the source."""

    def __init__(self, pool: Pool, rows: int | None, source: EncodedSource) -> None:
        """Create the memory; `rows` is None if the first step decides the number of sentences."""
        super().__init__(pool, rows, source)
        self._groups = PackedGroups()

    @property
    def length(self) -> int:
        """The number of slots of the longest row (M)."""
        return super().length or self._groups.length

    def read(self, slots: Slots, networks: Networks) -> Step:
        """Add new slots to the memory, and return the step with their hidden states."""
        rows, new = slots.token.shape
        buffers = self.room(rows, self.length, new)
        step = buffers.step(rows, new, networks, self.source)
        _read(step, slots, self._groups.extend(slots.group))
        return step

    def truncate(self, counts: Int[Tensor, "B"]) -> None:
        """Forget the last `counts` slots of each row."""
        self._groups.truncate(counts)

    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        """Keep the given rows, in the given order; a row may be dropped or repeated."""
        self._groups.reorder(rows)
        self.keep(rows.numpy())

    def join(self, other: Int8Memory) -> None:
        """Put the rows of another memory behind its own. This one has made a step, the other need
        not have; neither was stepped evenly.
        """
        assert self._buffers is not None
        assert self._rows is not None
        assert other._buffers is not None
        assert other._rows is not None
        assert not self._even
        assert not other._even
        own, rows = self._rows, self._rows + other._rows
        self.source = self.source.joined(other.source)
        whole = self._pool.take(rows, max(self.length, other.length))
        for name, array in whole.arrays.items():
            array[:own, :, : self.length] = self._buffers.arrays[name][:own, :, : self.length]
            theirs = other._buffers.arrays[name][: other._rows, :, : other.length]
            array[own:, :, : other.length] = theirs
        self._groups.join(other._groups, other._rows)
        self._pool.give(self._buffers)
        self._buffers, self._rows = whole, rows


def _read(step: Step, slots: Slots, placement: Placement) -> None:
    """Write slots where `placement` puts them; hidden states keep the order of the slots."""
    order = placement.order
    for array, field in zip((step.token, step.position, step.reach), slots, strict=False):
        array[:] = (field if order is None else field.gather(1, order)).numpy()
    visible = None if placement.visible is None else placement.visible.numpy()
    step.after(placement.start.numpy(), visible)
    if order is not None:
        step.hidden[:] = np.take_along_axis(
            step.hidden, order.argsort(dim=1)[:, :, None].numpy(), 1
        )
