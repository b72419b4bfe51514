"""Whole greedy groups in the int8 engine: what translating lines takes, without PyTorch.

Shapes: B sentences, S source tokens, K tokens per group, R rows kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from multistride.engines.int8.buffers import (
    LARGE_ROOM,
    ROOM,
    Array,
    Buffers,
    EncodedSource,
    GraphMaker,
    Pool,
    Sizes,
    gaps_filled,
    picking,
)
from multistride.engines.int8.forms import by_row
from multistride.engines.int8.native.library import WIDEST, described
from multistride.engines.int8.native.networks import NativeNetworks, networks_of
from multistride.engines.int8.support import precision
from multistride.engines.names import WeightForm
from multistride.model.config import TransformerConfig


class EvenMemory:
    """Keys and values of rows that have equally many slots, and of their sources."""

    _buffers: Buffers | None = None  # also of a memory that Ctrl-C left half made

    def __init__(self, pool: Pool, rows: int | None, source: EncodedSource) -> None:
        """Create the memory; `rows` is None if the first step decides the number of sentences."""
        self.source = source
        self._pool = pool
        self._buffers = None if rows is None else pool.take(rows, 0)
        self._rows = rows
        self._even = 0

    def __del__(self) -> None:
        if self._buffers is not None:
            self._pool.give(self._buffers)

    @property
    def length(self) -> int:
        """The number of slots of every row."""
        return self._even

    def grow_even(self, new: int) -> int:
        """Add slots to rows that stay alike (negative: forget some); return the number before."""
        self._even += new
        return self._even - new

    def keep_slots(self, slots: list[int], count: int) -> None:
        """Forget the last `count` slots of a single row but some, in ascending order."""
        first = self._even - count
        moved = [(first + place, first + slot) for place, slot in enumerate(slots) if place != slot]
        if moved and self._buffers is not None:
            to, of = map(list, zip(*moved, strict=True))
            for array in self._buffers.arrays.values():
                array[0][:, to] = array[0][:, of]
        self._even = first + len(slots)

    def hold(self, length: int) -> None:
        """Count the slots of the longest row; rows may have fewer."""
        self._even = length

    def room(self, rows: int, length: int, new: int) -> Buffers:
        """Return the buffers, with room for `new` slots after `length` existing ones."""
        if self._buffers is None:
            self._buffers, self._rows = self._pool.take(rows, new), rows
        if length + new > self._buffers.room:
            self._move(self._buffers, slice(None, rows), rows, length, length + new)
        return self._buffers

    def keep(self, rows: Int[np.ndarray, "R"]) -> None:
        """Keep the given rows, in the given order; a row may be dropped or repeated."""
        self.source = self.source.reordered(rows)
        if self._buffers is None:
            return
        length = self.length
        if (moved := gaps_filled(rows)) is None:
            self._move(self._buffers, rows, len(rows), length, length)
        else:
            for array in self._buffers.arrays.values():
                array[moved[0], :, :length] = array[moved[1], :, :length]
        self._rows = len(rows)

    def _move(self, old: Buffers, rows: Any, count: int, length: int, needed: int) -> None:
        self._buffers = self._pool.take(count, needed)
        for name, array in self._buffers.arrays.items():
            array[:count, :, :length] = old.arrays[name][rows, :, :length]
        self._pool.give(old)


class EvenEngine:
    """The graphs of a model, and the steps that need no slots."""

    def __init__(
        self,
        config: TransformerConfig,
        graphs: Mapping[str, GraphMaker],
        threads: int,
        form: WeightForm = "int8",
    ) -> None:
        """Take graphs as `graphs_of` makes them, with weights in this `form`."""
        self._config, self._networks = config, networks_of(graphs, threads, config, form)
        native = isinstance(self._networks, NativeNetworks)
        sizes = config.decoder_layers, config.key_value_count, config.head_width
        rounded = not by_row(config, form)
        room = ROOM if config.encoder_layers and not native else LARGE_ROOM
        self._pool = Pool(
            Sizes(*sizes, config.hidden_size, rounded, config.by_distance, room, not native)
        )
        self._chains = config.markov_rank > 0
        self.name: str = form
        self.precision = precision(config, form) + (f", {described()}" if native else "")

    @property
    def config(self) -> TransformerConfig:
        """The sizes, special tokens and group sizes of the model."""
        return self._config

    def searches(self, beam: int) -> bool:
        """Return True if the engine itself picks by a beam of groups; one group is no search."""
        native = isinstance(self._networks, NativeNetworks) and self._chains
        return beam == 1 or (native and beam <= WIDEST)

    def begun(self, source: Int[np.ndarray, "B S"], lengths: Int[np.ndarray, "B"]) -> EvenMemory:
        """Encode a batch of sources once; return the memory of its steps."""
        return EvenMemory(self._pool, len(source), EncodedSource(self.encoded(source, lengths)))

    def encoded(
        self, source: Int[np.ndarray, "B S"], lengths: Int[np.ndarray, "B"]
    ) -> dict[str, Array]:
        """Return what `EncodedSource` holds of a batch of sources."""
        real = (np.arange(source.shape[1]) < lengths[:, None]).astype(np.int32)
        sizes, (rows, length) = self._pool.sizes, real.shape
        shape = rows, sizes.heads, length, sizes.width
        encoded = {f"cross_{part}": np.empty(shape, np.float32) for part in sizes.parts}
        self._networks["encoder"].fill({"source": source, "real": real}, encoded)
        return {"real": real, **encoded}

    def step_even(
        self, tokens: Int[np.ndarray, "B K"], memory: EvenMemory, beam: int = 1
    ) -> tuple[Int[np.ndarray, "B K"], Float[np.ndarray, "B K"]]:
        """The next group of every row, and its log-probabilities, from the last one.

        With a `beam` of several it is the best group found, if `searches`.
        """
        rows, size = tokens.shape
        length = memory.grow_even(size)
        step = memory.room(rows, length, size).step(rows, size, self._networks, memory.source)
        step.token[:] = tokens
        step.position[:] = np.arange(length, length + size)
        step.reach.fill(size)
        step(length, None)
        return step.pick(self._networks, picking(self._chains, size, beam))()
