"""Whole greedy groups of sentences that began at different times, in one batch that others join.

The next pass of a row follows from its last group and from how many slots it has: no table of
slots is kept, and no tensor is made. The keys and values of all rows lie in one array that has room
for further rows. Those that join are written behind the others, the last row takes the place of
one that leaves, and nobody else is copied.

Shapes: B sentences, S source tokens, K tokens per group, P keys and values of all layers, C slots
there is room for, H heads, E head width.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from multistride.decode.hypothesis import AS_ASKED, Hypothesis, Running
from multistride.engines.int8.buffers import (
    ROOM,
    Array,
    Buffers,
    EncodedSource,
    Networks,
    Sizes,
    clear_overflows,
    drop_oldest,
    gaps_filled,
)

FEWEST = 8
"""Arrays have room for at least this many rows."""

WIDTH = 4
"""Sources are padded to a multiple of this many tokens."""

PADDING = 12
"""Padding tokens that cost the encoder about as much as another call."""

SPARE = 4
"""Maximum number of arrays kept for later batches."""


class Extent(NamedTuple):
    """Numbers of sentences, slots and source tokens, present or with room for them."""

    rows: int
    slots: int
    width: int

    def rounded(self) -> Extent:
        """Return the extent of arrays that hold this one: few sizes, so that they can be reused."""
        rows = max(FEWEST, 1 << (self.rows - 1).bit_length())
        return Extent(rows, ROOM * -(-self.slots // ROOM), WIDTH * -(-self.width // WIDTH))

    def suits(self, needed: Extent) -> bool:
        """True if arrays of this extent hold the needed one, and not much more than that.

        What is never read is not computed with, but attention reads all slots there is room for.
        """
        holds = all(own >= other for own, other in zip(self, needed, strict=True))
        return (
            holds and self.slots <= 2 * needed.slots + ROOM and self.width <= 2 * needed.width + 8
        )


class GatheredBuffers(Buffers):
    """Keys and values of the slots of all rows [P, B, H, C, E], and of their sources
    [P, B, H, S, E].

    `real` int32 [B, S] is 0 for padding. Steps are bound to the first rows.
    """

    def __init__(self, sizes: Sizes, extent: Extent) -> None:
        self.sizes, self.extent, self.rows, self.room = sizes, extent, extent.rows, extent.slots
        shape = len(sizes.parts), extent.rows, sizes.heads
        self.slots = np.zeros((*shape, extent.slots, sizes.width), np.float32)
        self.cross = np.zeros((*shape, extent.width, sizes.width), np.float32)
        self.real = np.zeros((extent.rows, extent.width), np.int32)
        self.arrays = dict(zip(sizes.parts, self.slots, strict=True))
        self.size = self.slots.nbytes + self.cross.nbytes
        self._steps = {}
        self._sources: dict[int, EncodedSource] = {}

    def clear_overflows(self) -> None:
        """Set arrays to zero that hold an infinity or a NaN, those of the sources, too."""
        super().clear_overflows()
        clear_overflows(self.cross)

    def source(self, rows: int) -> EncodedSource:
        """Return the encoded sources of the first rows."""
        if rows not in self._sources:
            names = (f"cross_{part}" for part in self.sizes.parts)
            arrays = {name: each[:rows] for name, each in zip(names, self.cross, strict=True)}
            self._sources[rows] = EncodedSource({"real": self.real[:rows], **arrays})
        return self._sources[rows]

    def encode_into(self, first: int, encoded: list[dict[str, Array]]) -> None:
        """Put encoded sources, as `EncodedSource` holds them, into rows from `first` on."""
        for piece in encoded:
            real = piece["real"]
            rows, width = slice(first, first + len(real)), min(real.shape[1], self.extent.width)
            self.real[rows, :width], self.real[rows, width:] = real[:, :width], 0
            for whole, part in zip(self.cross, self.sizes.parts, strict=True):
                whole[rows, :, :width] = piece[f"cross_{part}"][:, :, :width]
            first += len(real)

    def copy(self, first: int, other: GatheredBuffers, used: Extent) -> None:
        """Put the used part of other arrays into rows from `first` on."""
        rows, slots, width = used
        into = slice(first, first + rows)
        self.slots[:, into, :, :slots] = other.slots[:, :rows, :, :slots]
        self.cross[:, into, :, :width] = other.cross[:, :rows, :, :width]
        self.real[into, :width], self.real[into, width:] = other.real[:rows, :width], 0

    def move(self, into: Array, rows: Array, used: Extent) -> None:
        """Copy some rows to the places of others."""
        for target, row in zip(into.tolist(), rows.tolist(), strict=True):  # plain slices: no copy
            self.slots[:, target, :, : used.slots] = self.slots[:, row, :, : used.slots]
            self.cross[:, target, :, : used.width] = self.cross[:, row, :, : used.width]
        self.real[into] = self.real[rows]


class GatheredPool:
    """Arrays that no batch uses at present."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes, self._spare, self._lock = sizes, list[GatheredBuffers](), threading.Lock()

    def take(self, needed: Extent) -> GatheredBuffers:
        """Return arrays with room for what is needed."""
        with self._lock:
            for index, buffers in enumerate(self._spare):
                if buffers.extent.suits(needed):
                    return self._spare.pop(index)
        return GatheredBuffers(self.sizes, needed.rounded())

    def give(self, buffers: GatheredBuffers) -> None:
        """Take arrays back; the oldest are dropped beyond `SPARE` and `SPARE_BYTES`."""
        if self.sizes.read_whole:
            buffers.clear_overflows()
        with self._lock:
            self._spare.append(buffers)
            drop_oldest(self._spare, SPARE)


def alike(lengths: list[int]) -> Iterator[tuple[slice, int]]:
    """Yield rows whose sources are to be encoded together, and the longest of each: rows next to
    each other of like length, so that little of what is computed is padding.
    """
    first, longest, tokens = 0, 0, 0
    for row, length in enumerate(lengths):
        widest = max(longest, length)
        if (row + 1 - first) * widest - tokens - length > PADDING:
            yield slice(first, row), longest
            first, widest, tokens = row, length, 0
        longest, tokens = widest, tokens + length
    yield slice(first, len(lengths)), longest


class GatheredBatch:
    """A batch of whole greedy groups (`decode.loop.JoinableBatch`): what it writes is what
    `decode.even.decode_even` writes.
    """

    ready = True
    """Others may join before the first pass, too: there are no prompts to read."""

    def __init__(
        self,
        networks: Networks,
        pool: GatheredPool,
        encoded: list[dict[str, Array]],
        state: Running,
        first: Int[np.ndarray, "B K"],
        picking: str,
    ) -> None:
        """Take encoded sources, in pieces of some rows each, and the group before the first one of
        every row: start symbols.

        `picking` names what picks groups (`buffers.picking`).
        """
        self.state = state
        self._networks, self._pool, self._picking = networks, pool, picking
        self._tokens, self._group_size = first, first.shape[1]
        self._lengths = np.zeros(len(first), np.int64)
        self._widths = np.concatenate([piece["real"].sum(1) for piece in encoded])
        self._encoded = encoded
        self._buffers: GatheredBuffers | None = None

    def passes(self, prefix: tuple[int, ...] = ()) -> Iterator[list[Hypothesis]]:
        """Write until every text is over; after each pass, yield the texts it wrote into."""
        assert not prefix, "a prefix is read by the plain loop"
        try:
            while not self.state.done:
                yield self._write()
                self._leave()
        finally:
            self._release()

    def join(self, other: GatheredBatch) -> None:
        """Take over the rows of another batch of the same plan, which must not be used
        afterwards.
        """
        self._leave()
        other._leave()
        if other.state.done:
            return
        rows, used = len(self._tokens), other._used
        lengths = np.concatenate([self._lengths, other._lengths])
        widths = np.concatenate([self._widths, other._widths])
        longest = int(lengths.max()) + self._group_size
        buffers = self._fitting(Extent(len(lengths), longest, int(widths.max())))
        if other._buffers is None:
            buffers.encode_into(rows, other._encoded)
        else:
            buffers.copy(rows, other._buffers, used)
        self._lengths, self._widths = lengths, widths
        self._tokens = np.concatenate([self._tokens, other._tokens])
        self.state.join_even(other.state)
        other._release()

    @property
    def _used(self) -> Extent:
        return Extent(len(self._tokens), int(self._lengths.max()), int(self._widths.max()))

    def _write(self) -> list[Hypothesis]:
        began, size = time.perf_counter(), self._group_size
        rows, longest, width = self._used
        buffers = self._fitting(Extent(rows, longest + size, width))
        step = buffers.step(rows, size, self._networks, buffers.source(rows))
        step.token[:] = self._tokens
        np.add(self._lengths[:, None], np.arange(size), out=step.position)
        step.reach.fill(size)
        if int(self._lengths.min()) == longest:
            step(longest, None)
        else:
            step.uneven(self._lengths)
        self._tokens, values = step.pick(self._networks, self._picking)()
        self._lengths += size
        milliseconds = 1000 * (time.perf_counter() - began)
        return self.state.commit_even(
            self._tokens.tolist(), values.tolist(), milliseconds, AS_ASKED
        )

    def _leave(self) -> None:
        """Take the rows that are over out of the batch."""
        stay = self.state.leave_even()
        if stay is None or self.state.done:
            return
        kept = np.array(stay)
        moved = gaps_filled(kept)
        assert moved is not None  # the last rows take the places of those that left
        rows, longest, width = self._used
        buffers = self._buffers or self._fitting(Extent(rows, longest + self._group_size, width))
        buffers.move(*moved, self._used)
        self._tokens, self._lengths = self._tokens[kept], self._lengths[kept]
        self._widths = self._widths[kept]

    def _fitting(self, needed: Extent) -> GatheredBuffers:
        """Return arrays with room for what is needed, which hold the rows that are there."""
        buffers = self._buffers
        if buffers is not None and buffers.extent.suits(needed):
            return buffers
        self._buffers = self._pool.take(needed)
        if buffers is not None:
            self._buffers.copy(0, buffers, self._used)
            self._pool.give(buffers)
        else:
            self._buffers.encode_into(0, self._encoded)
            self._encoded = []
        return self._buffers

    def _release(self) -> None:
        if self._buffers is not None:
            self._pool.give(self._buffers)
            self._buffers = None
