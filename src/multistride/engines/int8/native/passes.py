"""Passes of a network and the choice of tokens by the native kernels, in place of graphs.

They read and write the arrays that the graphs of the same names do (`encoder_graph`,
`decoder_graph`, `greedy_graph`, `chained_graph`).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from multistride.engines.int8.buffers import CheckedSlots, View, Views
from multistride.engines.int8.native import library
from multistride.engines.int8.native.library import Work
from multistride.engines.int8.native.stored import Array, aligned


class NativePass:
    """Passes of the decoder over any number of slots, or of the encoder."""

    def __init__(self, work: Work, threads: int) -> None:
        self._work, self._threads = work, threads

    def bound(self, inputs: Views, outputs: Views) -> BoundPass:
        """Return a pass, bound to the values that it reads and writes from now on."""
        return BoundPass(self._work, self._threads, inputs, outputs)

    def fill(self, inputs: dict[str, Array], outputs: dict[str, Array]) -> None:
        """Compute all outputs into the given arrays."""
        values = ({name: View(each) for name, each in part.items()} for part in (inputs, outputs))
        self.bound(*values)()


NAMES = {"source": "token"}
"""The inputs of the encoder graph by what a pass calls them."""

CACHE = re.compile(r"(cross_)?(key|value)([0-9]+)")


@cache
def cache_of(name: str) -> tuple[str, int] | None:
    """Return the table of caches that an input belongs to, and its layer; None for other inputs."""
    found = CACHE.fullmatch(name)
    return None if found is None else (f"{found[1] or ''}{found[2]}s", int(found[3]))


class BoundPass:
    """A pass and the memory it works on."""

    def __init__(self, work: Work, threads: int, inputs: Views, outputs: Views) -> None:
        self._work, self._kept = work, dict[str, Any]()
        rows, slots = inputs["token" if "token" in inputs else "source"].shape
        self._pass = library.Pass(rows=rows, slots=slots)
        self._caches = {name: (ctypes.c_void_p * work.layers)() for name in library.CACHES}
        for name, table in self._caches.items():
            setattr(self._pass, name, ctypes.addressof(table))
        if "hidden" in outputs:
            self._kept["hidden"] = outputs["hidden"]
            self._pass.hidden = outputs["hidden"].address
        self._given = ctypes.addressof(work.weights), ctypes.addressof(self._pass), threads
        self._longest = -1
        self.read({**inputs, **outputs})

    def read(self, values: Views) -> None:
        """Read other values from now on."""
        each = self._pass
        for name, value in values.items():
            name = NAMES.get(name, name)
            if name in library.READ:
                setattr(each, name, value.address)
            elif (found := cache_of(name)) is not None:
                table, layer = found
                self._caches[table][layer] = value.address
                if name == "key0":
                    each.room = value.shape[2]
            else:
                continue
            self._kept[name] = value
            if name == "bias":
                each.bias_rows = value.shape[0]
            elif name == "real":
                each.source = value.shape[1]
        if (longest := max(each.room, each.source)) > self._longest:
            self._longest = longest
            self._scratch = aligned(self._work.scratch(*self._given))
            each.scratch = self._scratch.ctypes.data

    def __call__(self) -> None:
        """Compute all outputs."""
        self._work.run(*self._given)


class NativePicker:
    """The choice of tokens: each by itself, or chained in groups by a Markov head."""

    def __init__(self, pick: Work, chain: Work | None, threads: int) -> None:
        """`chain` is None if every token is picked by itself."""
        self._pick, self._chain, self._threads = pick, chain, threads
        self._width = pick.weights.output.outputs

    def __call__(self, inputs: dict[str, Array]) -> list[Array]:
        """Return tokens and log-probabilities."""
        return _found(self, inputs["hidden"])

    def bound(self, inputs: Views, outputs: Views) -> BoundPick:
        """Return the choice, bound to the values that it reads and writes from now on."""
        rows, size = [*outputs["tokens"].shape, 1][:2]
        if self._chain is None:
            rows, size = rows * size, 1
        logits = View(np.empty((rows, size - 1, self._width), np.float32))
        written = outputs["tokens"], outputs["log_probabilities"], logits
        picking = Picking((inputs["hidden"], *written), rows, size, 1)
        works = [each for each in (self._pick, self._chain) if each is not None]
        return BoundPick(works if size > 1 else works[:1], picking, self._threads)

    def check(self, hidden: Array, clean: int) -> CheckedSlots:
        """Pick in the first `clean` slots of `hidden` [B, N, D], and draft in the others.

        All are projected together; drafts are chained when they are asked for.
        """
        rows, slots, _ = hidden.shape
        chain = self._chain if slots > clean else None
        known = clean if chain else slots
        tokens, certain = np.zeros((rows, slots), np.int64), np.zeros((rows, slots), np.float32)
        logits = np.empty((rows, slots - known, self._width), np.float32)
        arrays = (np.ascontiguousarray(hidden), tokens, certain, logits)
        picking = Picking([View(each) for each in arrays], rows, slots, known)
        BoundPick([self._pick], picking, self._threads)()

        def draft(wanted: Array) -> Array:
            if chain is None:
                return tokens[wanted, clean:]
            group, own = tokens[wanted, clean - 1 :], logits[wanted]
            arrays = (own, group, np.empty(group.shape, np.float32), own)
            picking = Picking([View(each) for each in arrays], len(group), group.shape[1], 1)
            BoundPick([chain], picking, self._threads)()
            return group[:, 1:]

        return CheckedSlots(tokens[:, :clean], certain[:, :clean], draft)


class NativeSearch:
    """The most probable group of each sentence that a beam finds with a Markov head."""

    def __init__(
        self, pick: Work, search: Work, ends: Sequence[int], beam: int, threads: int
    ) -> None:
        """Keep `beam` groups while their tokens are picked; one of `ends` ends a text."""
        self._pick, self._search, self._threads = pick, search, threads
        self._width, self._beam = pick.weights.output.outputs, beam
        self._ends = View(np.array(ends, np.int64))

    def __call__(self, inputs: dict[str, Array]) -> list[Array]:
        """Return tokens and log-probabilities."""
        return _found(self, inputs["hidden"])

    def bound(self, inputs: Views, outputs: Views) -> BoundSearch:
        """Return the search, bound to the values that it reads and writes from now on."""
        rows, size = outputs["tokens"].shape
        logits = View(np.empty((rows, size, self._width), np.float32))
        written = [outputs[name] for name in library.FOUND]
        picking = Picking((inputs["hidden"], *written, logits), rows, size, 0)
        pick = BoundPick([self._pick], picking, self._threads)
        values = logits, *written, self._ends
        return BoundSearch(pick, self._search, values, self._beam, self._threads)


def _found(picker: NativePicker | NativeSearch, states: Array) -> list[Array]:
    """Return the tokens of states [B, N, D] or [R, D] and their log-probabilities."""
    hidden = np.ascontiguousarray(states)
    shape = hidden.shape[:-1]
    found: list[Array] = [np.zeros(shape, np.int64), np.zeros(shape, np.float32)]
    outputs = {name: View(each) for name, each in zip(library.FOUND, found, strict=True)}
    picker.bound({"hidden": View(hidden)}, outputs)()
    return found


class Picking(NamedTuple):
    """Arrays that tokens are picked from and written to (`choice.h`)."""

    values: Sequence[View]
    """Hidden states, tokens, log-probabilities and logits."""
    sentences: int
    slots: int
    clean: int


class BoundPick:
    """A choice of tokens and the memory it works on."""

    def __init__(self, works: Sequence[Work], picking: Picking, threads: int) -> None:
        """Run `works` one after the other on the same values."""
        rows = picking.sentences * picking.slots
        scratch = aligned(max(work.scratch(ctypes.addressof(work.weights), rows) for work in works))
        places = (value.address for value in picking.values)
        given = library.Picking(*places, scratch.ctypes.data, *picking[1:])
        self._kept = works, picking, scratch, given
        self._runs = [
            partial(work.run, ctypes.addressof(work.weights), ctypes.addressof(given), threads)
            for work in works
        ]

    def __call__(self) -> None:
        """Compute all outputs."""
        for run in self._runs:
            run()


class BoundSearch:
    """A search and the memory it works on."""

    def __init__(
        self, pick: BoundPick, work: Work, values: Sequence[View], beam: int, threads: int
    ) -> None:
        """Run `work` behind what computes its logits, the first of its `values`."""
        (rows, size), (ends,) = values[1].shape, values[-1].shape
        places = (value.address for value in values)
        given = library.Searching(*places, None, rows, size, ends, beam)
        place = ctypes.addressof(work.weights), ctypes.addressof(given)
        scratch = aligned(work.scratch(*place))
        given.scratch = scratch.ctypes.data
        self._kept = work, values, scratch, given
        self._pick, self._run = pick, partial(work.run, *place, threads)

    def __call__(self) -> None:
        """Compute all outputs."""
        self._pick()
        self._run()
