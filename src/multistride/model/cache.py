"""The cache of decoding: keys and values of the slots so far and of the source.

It has one owner, the decoding loop, and four verbs: `append` (inside a step), `truncate`,
`reorder`, `join`. Buffers double when they are full, so memory follows batch and length, however
many steps fill it.

Shapes: B sentences, H heads, M cached slots, S source tokens, E width of a head.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multistride.groups import DRAFTS, PADDING_GROUP, drafting_visibility, visibility

KeyValue = tuple[Float[Tensor, "B H S E"], Float[Tensor, "B H S E"]]

FIRST_CAPACITY = 32
"""Number of slots a new buffer has room for; it doubles from there."""


HOLES = 8
"""Number of columns beyond the slots of the longest row that are tolerated before compaction."""


class LayerCache:
    """Keys and values of one decoder layer, in buffers with room to grow."""

    def __init__(self) -> None:
        self.length = 0
        self._key: Tensor | None = None
        self._value: Tensor | None = None

    def append(self, key: Float[Tensor, "B H N E"], value: Float[Tensor, "B H N E"]) -> KeyValue:
        """Add keys and values of N new slots; return those of all slots so far [B, H, M, E]."""
        end = self.length + key.shape[2]
        self._key, self._value = (
            self._room(self._key, key, end),
            self._room(self._value, value, end),
        )
        self._key[:, :, self.length : end] = key
        self._value[:, :, self.length : end] = value
        self.length = end
        return self._key[:, :, :end], self._value[:, :, :end]

    def truncate(self, length: int) -> None:
        """Forget all slots from `length` on."""
        self.length = min(self.length, length)

    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        """Keep the given rows, in the given order; a row may be dropped or repeated."""
        if self._key is not None and self._value is not None:
            self._key, self._value = (
                self._key.index_select(0, rows),
                self._value.index_select(0, rows),
            )

    @torch.inference_mode()
    def rearrange(self, order: Int[Tensor, "B M"]) -> None:
        """Keep, in each row, the slots at the given indices, in that order."""
        assert self._key is not None
        assert self._value is not None
        self.length = order.shape[1]
        for buffer in (self._key, self._value):
            places = order[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
            buffer[:, :, : self.length] = buffer.gather(2, places)

    def join(self, other: LayerCache, rows: int) -> None:
        """Put the `rows` rows of another cache behind its own, the shorter ones padded on the
        right.
        """
        assert self._key is not None
        assert self._value is not None
        length = max(self.length, other.length)
        self._key = self._joined(self._key, other._key, other.length, rows)
        self._value = self._joined(self._value, other._value, other.length, rows)
        self.length = length

    def _joined(self, mine: Tensor, theirs: Tensor | None, length: int, rows: int) -> Tensor:
        own, heads, _, width = mine.shape
        capacity = _capacity(max(self.length, length))
        # zeros: a hidden slot has weight 0, and 0 times what may be no number is no number
        both = mine.new_zeros(own + rows, heads, capacity, width)
        both[:own, :, : self.length] = mine[:, :, : self.length]
        if theirs is not None:
            both[own:, :, :length] = theirs[:, :, :length]
        return both

    def _room(self, buffer: Tensor | None, new: Tensor, needed: int) -> Tensor:
        if buffer is not None and buffer.shape[2] >= needed:
            return buffer
        capacity = _capacity(needed)
        larger = new.new_empty(new.shape[0], new.shape[1], capacity, new.shape[3])
        if buffer is not None:
            larger[:, :, : self.length] = buffer[:, :, : self.length]
        return larger


def _capacity(needed: int) -> int:
    capacity = FIRST_CAPACITY
    while capacity < needed:
        capacity *= 2
    return capacity


class CachedGroups:
    """The groups of the cached slots, which decide visibility, and the holes in their rows."""

    def __init__(self) -> None:
        self.table: Int[Tensor, "B M"] | None = None
        self._latest = 0  # no group in the table is later than this one

    @property
    def length(self) -> int:
        """The number of cached slots, padding included (M)."""
        return 0 if self.table is None else self.table.shape[1]

    def extend(self, group: Int[Tensor, "B N"]) -> Bool[Tensor, "B N M"] | None:
        """Announce N new slots; return which slots they see, new ones included (None: all)."""
        self.table = group if self.table is None else torch.cat([self.table, group], dim=1)
        if group.device.type != "cpu":  # to look at the groups would be to wait for the GPU
            return drafting_visibility(group, self.table)
        earliest, latest = (int(bound) for bound in group.aminmax())
        before, self._latest = self._latest, max(self._latest, latest)
        if earliest == latest >= before:
            return None
        visible = (visibility if latest < DRAFTS else drafting_visibility)(group, self.table)
        return None if bool(visible.all()) else visible

    def truncate(self, counts: Int[Tensor, "B"]) -> Int[Tensor, "B L"] | None:
        """Forget the last `counts` slots of each row; `length` becomes that of the longest row.

        Rows that keep more leave holes in the others. Beyond `HOLES` the rows are compacted, so
        that memory follows the longest row: the indices of the slots to keep are returned, in their
        new order; otherwise None.
        """
        assert self.table is not None
        kept = self.length - counts.to(self.table.device)
        longest = int(kept.max())
        past = torch.arange(longest, device=kept.device) >= kept[:, None]
        self.table = self.table[:, :longest].masked_fill(past, PADDING_GROUP)
        self._latest = PADDING_GROUP if bool(past.any()) else self._latest
        hole = self.table == PADDING_GROUP
        needed = longest - int(hole.sum(1).min())
        if longest - needed <= HOLES:
            return None
        order = hole.to(torch.uint8).sort(dim=1, stable=True).indices[:, :needed]
        self.table = self.table.gather(1, order)
        return order

    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        """Keep the given rows, in the given order."""
        if self.table is not None:
            self.table = self.table.index_select(0, rows.to(self.table.device))

    def join(self, other: CachedGroups, rows: int) -> None:
        """Put the `rows` rows of another table behind its own; the shorter ones get holes."""
        assert self.table is not None
        theirs = self.table.new_empty(rows, 0) if other.table is None else other.table
        length = max(self.length, theirs.shape[1])
        self.table = torch.cat([_padded(self.table, length), _padded(theirs, length)])
        self._latest = PADDING_GROUP


def _padded(table: Int[Tensor, "B M"], length: int) -> Int[Tensor, "B L"]:
    return torch.nn.functional.pad(table, (0, length - table.shape[1]), value=PADDING_GROUP)


class PassedOn(LayerCache):
    """Keys and values of one training pass, shared with a second one without a copy."""

    def append(self, key: Float[Tensor, "B H N E"], value: Float[Tensor, "B H N E"]) -> KeyValue:
        """Keep those of the first pass; in the second, return those of both [B, H, M, E]."""
        if self._key is None or self._value is None:
            self._key, self._value = key, value
            return key, value
        return torch.cat([self._key, key], dim=2), torch.cat([self._value, value], dim=2)


class DecoderCache:
    """The memory of one batch while it is decoded: layer caches, groups, and the source.

    `source` holds the cross-attention keys and values of every layer (empty for a causal model),
    `source_mask` [B, 1, 1, S] which source tokens are real (None: all).
    """

    def __init__(
        self, layers: int, source: list[KeyValue], source_mask: Bool[Tensor, "B 1 1 S"] | None
    ) -> None:
        self.layers = [LayerCache() for _ in range(layers)]
        self.source = source
        self.source_mask = source_mask
        self.groups = CachedGroups()

    @property
    def length(self) -> int:
        """The number of cached slots, padding included (M)."""
        return self.groups.length

    def extend(self, group: Int[Tensor, "B N"]) -> Bool[Tensor, "B 1 N M"] | None:
        """Announce N new slots; return which slots they see, new ones included (None: all)."""
        visible = self.groups.extend(group)
        return None if visible is None else visible[:, None]

    def truncate(self, counts: Int[Tensor, "B"]) -> None:
        """Forget the last `counts` slots of each row."""
        if self.groups.table is None:
            return
        order = self.groups.truncate(counts)
        for layer in self.layers:
            if order is None:
                layer.truncate(self.length)
            else:
                layer.rearrange(order)

    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        """Keep the given rows, in the given order; a row may be dropped or repeated."""
        if self.groups.table is not None:
            rows = rows.to(self.groups.table.device)
        self.groups.reorder(rows)
        for layer in self.layers:
            layer.reorder(rows)
        self.source = [
            (key.index_select(0, rows), value.index_select(0, rows)) for key, value in self.source
        ]
        if self.source_mask is not None:
            self.source_mask = self.source_mask.index_select(0, rows)

    @property
    def rows(self) -> int:
        """The number of sentences (B); of a causal model known from its first step on."""
        return len(self.source[0][0] if self.groups.table is None else self.groups.table)

    def join(self, other: DecoderCache) -> None:
        """Put the rows of another cache behind its own. This one has made a step, the other need
        not have.
        """
        own, rows = self.rows, other.rows
        if self.source:
            self._join_sources(other)
        self.groups.join(other.groups, rows)
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.join(theirs, rows)
        self.truncate(torch.zeros(own + rows, dtype=torch.long))  # drops holes that all rows have

    def _join_sources(self, other: DecoderCache) -> None:
        """Put the sources of another cache behind its own, as wide as the longest of both."""
        masks = [cache.real_source() for cache in (self, other)]
        width = max(int(mask.sum(-1).max()) for mask in masks)
        self.source_mask = torch.cat([_fitted(mask, 3, width) for mask in masks])
        self.source = [
            (
                torch.cat([_fitted(key, 2, width), _fitted(other_key, 2, width)]),
                torch.cat([_fitted(value, 2, width), _fitted(other_value, 2, width)]),
            )
            for (key, value), (other_key, other_value) in zip(
                self.source, other.source, strict=True
            )
        ]

    def real_source(self) -> Bool[Tensor, "B 1 1 S"]:
        """Return which source tokens are real, where `source_mask` is None too."""
        if self.source_mask is not None:
            return self.source_mask
        key = self.source[0][0]
        return torch.ones(len(key), 1, 1, key.shape[2], dtype=torch.bool, device=key.device)


def _fitted(values: Tensor, dimension: int, width: int) -> Tensor:
    """Return values cut or padded with zeros on the right of one dimension."""
    values = values.narrow(dimension, 0, min(width, values.shape[dimension]))
    missing = width - values.shape[dimension]
    return torch.nn.functional.pad(values, (0, 0) * (values.dim() - 1 - dimension) + (0, missing))
