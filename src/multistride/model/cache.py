"""What decoding keeps between steps: keys and values of the slots so far and of the source.

The cache has one owner, the decoding loop, and three verbs: `append` (inside a step), `truncate`, `reorder`.
It grows with batch and length: its buffers double when they are full, however many steps fill them.

Shapes: B sentences, H heads, M cached slots, S source tokens, E width of a head.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multistride.groups import PADDING_GROUP, visibility

KeyValue = tuple[Float[Tensor, "B H S E"], Float[Tensor, "B H S E"]]

FIRST_CAPACITY = 32
"""Slots a buffer has room for when it is made; it doubles from there."""


HOLES = 8
"""Columns more than the longest row needs that are put up with before the rows are pushed together."""


class LayerCache:
    """Keys and values of one decoder layer, in buffers with room to grow."""

    def __init__(self) -> None:
        self.length = 0
        self._key: Tensor | None = None
        self._value: Tensor | None = None

    def append(self, key: Float[Tensor, "B H N E"], value: Float[Tensor, "B H N E"]) -> KeyValue:
        """Add the keys and values of N new slots; return those of all slots so far, [B, H, M, E]."""
        end = self.length + key.shape[2]
        self._key, self._value = self._room(self._key, key, end), self._room(self._value, value, end)
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
            self._key, self._value = self._key.index_select(0, rows), self._value.index_select(0, rows)

    @torch.inference_mode()
    def rearrange(self, order: Int[Tensor, "B M"]) -> None:
        """Keep, in each row, the slots at the given places in the given order."""
        assert self._key is not None
        assert self._value is not None
        self.length = order.shape[1]
        for buffer in (self._key, self._value):
            places = order[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
            buffer[:, :, : self.length] = buffer.gather(2, places)

    def _room(self, buffer: Tensor | None, new: Tensor, needed: int) -> Tensor:
        if buffer is not None and buffer.shape[2] >= needed:
            return buffer
        capacity = FIRST_CAPACITY
        while capacity < needed:
            capacity *= 2
        larger = new.new_empty(new.shape[0], new.shape[1], capacity, new.shape[3])
        if buffer is not None:
            larger[:, :, : self.length] = buffer[:, :, : self.length]
        return larger


class PassedOn(LayerCache):
    """Keys and values of one pass, handed on to a second one that is trained together with it: nothing is copied."""

    def append(self, key: Float[Tensor, "B H N E"], value: Float[Tensor, "B H N E"]) -> KeyValue:
        """Keep those of the first pass; return those of both, [B, H, M, E], in the second."""
        if self._key is None or self._value is None:
            self._key, self._value = key, value
            return key, value
        return torch.cat([self._key, key], dim=2), torch.cat([self._value, value], dim=2)


class DecoderCache:
    """The memory of one batch while it is decoded: a `LayerCache` a layer, the groups, and the source.

    `source` holds the cross-attention keys and values of every layer (empty for a causal model),
    `source_mask` [B, 1, 1, S] which source tokens are real (None: all).
    """

    def __init__(self, layers: int, source: list[KeyValue], source_mask: Bool[Tensor, "B 1 1 S"] | None) -> None:
        self.layers = [LayerCache() for _ in range(layers)]
        self.source = source
        self.source_mask = source_mask
        self.group: Int[Tensor, "B M"] | None = None

    @property
    def length(self) -> int:
        """Slots in the cache, padding included (M)."""
        return 0 if self.group is None else self.group.shape[1]

    def extend(self, group: Int[Tensor, "B N"]) -> Bool[Tensor, "B 1 N M"] | None:
        """Announce N new slots; return what they see of all slots, themselves included (None: all of it)."""
        self.group = group if self.group is None else torch.cat([self.group, group], dim=1)
        visible = visibility(group, self.group)
        if visible.device.type == "cpu" and bool(visible.all()):
            return None
        return visible[:, None]

    def truncate(self, counts: Int[Tensor, "B"]) -> None:
        """Forget the last `counts` slots of each row. Rows that keep more leave holes in the others.

        Where holes are more than a few the rows are pushed together, so that memory follows the longest row.
        """
        if self.group is None:
            return
        kept = self.length - counts.to(self.group.device)
        longest = int(kept.max())
        past = torch.arange(longest, device=kept.device) >= kept[:, None]
        self.group = self.group[:, :longest].masked_fill(past, PADDING_GROUP)
        for layer in self.layers:
            layer.truncate(longest)
        self._push_together()

    def _push_together(self) -> None:
        assert self.group is not None
        hole = self.group == PADDING_GROUP
        needed = self.length - int(hole.sum(1).min())
        if self.length - needed <= HOLES:
            return
        order = hole.to(torch.uint8).sort(dim=1, stable=True).indices[:, :needed]
        self.group = self.group.gather(1, order)
        for layer in self.layers:
            layer.rearrange(order)

    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        """Keep the given rows, in the given order; a row may be dropped or repeated."""
        if self.group is not None:
            rows = rows.to(self.group.device)
        for layer in self.layers:
            layer.reorder(rows)
        self.source = [(key.index_select(0, rows), value.index_select(0, rows)) for key, value in self.source]
        if self.source_mask is not None:
            self.source_mask = self.source_mask.index_select(0, rows)
        if self.group is not None:
            self.group = self.group.index_select(0, rows)
