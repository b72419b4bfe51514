"""Memory of the GPU engine: arrays of fixed address and size, so that recorded steps stay valid.

A CUDA graph repeats kernels on the addresses they were recorded with. So the numbers of rows,
cached slots and source tokens are rounded up to a few sizes (buckets); what lies beyond the real
ones is never seen. When rows leave, slots arrive or a batch ends, the contents move to an arena of
another size, or stay.

Shapes: B rows of the bucket, R real rows, M slots of the bucket, N new slots, S source tokens of
the bucket, H heads of keys and values, E width of a head.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from multistride.groups import PADDING_GROUP, Slots, drafting_visibility
from multistride.model.cache import CachedGroups, KeyValue, LayerCache
from multistride.model.config import TransformerConfig

SMALLEST_CACHE, SMALLEST_SOURCE = 32, 16


class Size(NamedTuple):
    """The number of rows, cached slots and source tokens that an arena has room for."""

    rows: int
    slots: int
    source: int


def bucket(count: int, smallest: int = 1) -> int:
    """Return the smallest power of two that is at least `count` and `smallest`."""
    size = smallest
    while size < count:
        size *= 2
    return size


class StaticLayerCache(LayerCache):
    """Keys and values of one decoder layer in arrays of fixed size, returned whole.

    Slots beyond the real ones are masked.
    """

    def __init__(self, key: Tensor, value: Tensor, columns: Callable[[int], Tensor]) -> None:
        super().__init__()
        self._key, self._value = key, value
        self._columns = columns

    def append(self, key: Tensor, value: Tensor) -> KeyValue:
        """Write keys and values of N new slots to the announced columns; return all."""
        assert self._key is not None
        assert self._value is not None
        columns = self._columns(key.shape[2])
        self._key.index_copy_(2, columns, key)
        self._value.index_copy_(2, columns, value)
        return self._key, self._value


class Arena:
    """The arrays of one batch at one size, and the steps recorded on them."""

    def __init__(
        self, config: TransformerConfig, size: Size, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.size = size
        heads, width = config.key_value_count, config.head_width

        def block(length: int) -> Tensor:
            """Return keys and values of all layers, which lie together, of `length` slots."""
            shape = config.decoder_layers, 2, size.rows, heads, length, width
            return torch.zeros(shape, device=device, dtype=dtype)

        def pairs(block: Tensor) -> list[KeyValue]:
            return [(key, value) for key, value in block]

        def places() -> Tensor:  # positions need float32: bfloat16 counts to 256
            return torch.zeros(size.rows, 1, size.slots, 1, device=device)

        self._blocks = [block(size.slots)]
        self.past = pairs(self._blocks[0])
        if config.by_distance:
            self.past.append((places(), places()))
        self.source: list[KeyValue] = []
        if config.encoder_layers:
            self._blocks.append(block(size.source))
            self.source = pairs(self._blocks[1])
        self.real = torch.ones(size.rows, 1, 1, size.source, device=device, dtype=torch.bool)
        self.recorded: dict[tuple[str, int, int], Callable[[], Tensor]] = {}
        self._inputs: dict[int, Tensor] = {}
        self._device = device
        self.caches = [StaticLayerCache(*pair, self._columns) for pair in self.past]

    def load(self, slots: Slots, table: Int[Tensor, "R M"]) -> None:
        """Send new slots, and the groups of all slots including them, to the arena in one transfer.

        `table` ends with the new slots. No real slot sees the slots of padding rows.
        """
        rows, new = slots.token.shape
        packed = torch.full(
            (self.size.rows, 4 * new + new + self.size.slots), PADDING_GROUP, dtype=torch.int32
        )
        packed[:, : 3 * new] = 0
        for place, field in enumerate((slots.token, slots.position, slots.reach - 1, slots.group)):
            packed[:rows, place * new : (place + 1) * new] = field
        packed[:, 4 * new : 5 * new] = torch.arange(table.shape[1] - new, table.shape[1])
        packed[:rows, 5 * new : 5 * new + table.shape[1]] = table
        self._input(new).copy_(packed, non_blocking=True)

    def loaded(self, new: int) -> tuple[Slots, Tensor]:
        """Return the sent slots and which cached slots they see [B, 1, N, M], on the device."""
        token, position, reach, group, _, table = (
            self._input(new).long().split([new] * 5 + [self.size.slots], dim=1)
        )
        visible = drafting_visibility(group, table)[:, None]
        return Slots(token, position, reach + 1, group), visible

    def fill_source(self, source: list[KeyValue], lengths: Int[Tensor, "R"]) -> None:
        """Write the cross-attention keys and values of a batch [R, H, T, E], T at most S."""
        for stored, new in zip(self.source, source, strict=True):
            for array, part in zip(stored, new, strict=True):
                array[: part.shape[0], :, : part.shape[2]] = part
        rows = len(lengths)
        self.real[:rows, 0, 0] = (
            torch.arange(self.size.source, device=self._device) < lengths.to(self._device)[:, None]
        )

    @torch.inference_mode()
    def take(self, other: Arena, rows: Int[Tensor, "R"], first: int = 0) -> None:
        """Copy the given rows of another arena, or of this one, to the rows of this one from
        `first` on.
        """
        last = first + len(rows)
        slots = min(self.size.slots, other.size.slots)
        source = min(self.size.source, other.size.source)
        rows = rows.to(self._device)
        for mine, theirs in ((self.past, other.past), (self.source, other.source)):
            length = slots if mine is self.past else source
            for pair, old in zip(mine, theirs, strict=True):
                for array, part in zip(pair, old, strict=True):
                    array[first:last, :, :length] = part[:, :, :length].index_select(0, rows)
        self.real[first:last, ..., :source] = other.real[..., :source].index_select(0, rows)
        self.real[first:last, ..., source:] = False

    @torch.inference_mode()
    def clear_overflows(self) -> None:
        """Replace infinities and NaNs, which a text has left that overflowed, without waiting.

        Attention reads all slots and gives those beyond the real ones no weight, and no weight
        times a NaN is a NaN: it would be in all later texts.
        """
        for block in self._blocks:
            block.nan_to_num_(0.0, 0.0, 0.0)

    @torch.inference_mode()
    def rearrange(self, order: Int[Tensor, "R L"]) -> None:
        """Keep, in each of the first rows, the slots at the given indices, in that order."""
        rows, length = order.shape
        for array in (array for pair in self.past for array in pair):
            places = order.to(self._device)[:, None, :, None].expand(
                -1, array.shape[1], -1, array.shape[3]
            )
            array[:rows, :, :length] = array[:rows].gather(2, places)

    def _input(self, new: int) -> Tensor:
        """Return the input array [B, 5N + M].

        Its columns are token, position, reach - 1, group, cache columns, and the groups of all
        slots.
        """
        if new not in self._inputs:
            shape = (self.size.rows, 5 * new + self.size.slots)
            self._inputs[new] = torch.zeros(shape, dtype=torch.int32, device=self._device)
        return self._inputs[new]

    def _columns(self, new: int) -> Tensor:
        return self._input(new)[0, 4 * new : 5 * new].long()


class Arenas:
    """All arenas of an engine; each is lent to one batch at a time and keeps its recorded steps."""

    def __init__(self, config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._make = lambda size: Arena(config, size, device, dtype)
        self._free: defaultdict[Size, list[Arena]] = defaultdict(list)

    def borrow(self, size: Size) -> Arena:
        """Return an arena of this size, with the contents that the previous batch left."""
        return self._free[size].pop() if self._free[size] else self._make(size)

    def give_back(self, arena: Arena) -> None:
        """Make an arena available to other batches."""
        arena.clear_overflows()
        self._free[arena.size].append(arena)


class GpuMemory:
    """One batch while it is decoded. Groups stay on the CPU, where slots are made."""

    def __init__(self, arenas: Arenas, rows: int, source_tokens: int) -> None:
        """Borrow an arena.

        A causal model has no source tokens; its number of rows is that of the first slots.
        """
        self._arenas = arenas
        self.rows = rows
        self.groups = CachedGroups()
        size = Size(bucket(rows), SMALLEST_CACHE, bucket(source_tokens, SMALLEST_SOURCE))
        self._borrow(size)

    @property
    def length(self) -> int:
        """Slots in the cache, padding included (M)."""
        return self.groups.length

    def announce(self, slots: Slots) -> None:
        """Make room for new slots and send them to the arena."""
        if self.groups.table is None and len(slots.token) != self.rows:
            self.rows = len(slots.token)
            self._move(self.arena.size._replace(rows=bucket(self.rows)), torch.arange(0))
        self.groups.extend(slots.group)
        if self.length > self.arena.size.slots:
            self._move(
                self.arena.size._replace(slots=bucket(self.length, SMALLEST_CACHE)),
                torch.arange(self.rows),
            )
        assert self.groups.table is not None
        self.arena.load(slots, self.groups.table)

    def truncate(self, counts: Int[Tensor, "B"]) -> None:
        """Forget the last `counts` slots of each row."""
        order = self.groups.truncate(counts)
        if order is not None:
            self.arena.rearrange(order)

    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        """Keep the given rows, in the given order; a row may be dropped or repeated."""
        self.groups.reorder(rows)
        self._move(self.arena.size._replace(rows=bucket(max(len(rows), 1))), rows)
        self.rows = len(rows)

    def join(self, other: GpuMemory) -> None:
        """Put the rows of another memory behind its own. This one has made a step, the other need
        not have, unless the model is causal.
        """
        own, both = self.rows, self.rows + other.rows
        longest = max(self.length, other.length)
        widest = max(self.arena.size.source, other.arena.size.source)
        size = Size(bucket(both), bucket(longest, SMALLEST_CACHE), widest)
        self._move(size, torch.arange(own))
        self.arena.take(other.arena, torch.arange(other.rows), own)
        self.groups.join(other.groups, other.rows)
        self.rows = both
        self.truncate(torch.zeros(both, dtype=torch.long))  # drops holes that all rows have

    def _move(self, size: Size, rows: Int[Tensor, "R"]) -> None:
        """Move the rows to an arena of this size, or rearrange them if it is the present one."""
        before = self.arena
        if size == before.size:
            before.take(before, rows)
            return
        self._lease.detach()
        self._borrow(size)
        self.arena.take(before, rows)
        self._arenas.give_back(before)

    def _borrow(self, size: Size) -> None:
        """Borrow an arena until this memory is deleted."""
        self.arena = self._arenas.borrow(size)
        self._lease = weakref.finalize(self, self._arenas.give_back, self.arena)
        self._lease.atexit = False
