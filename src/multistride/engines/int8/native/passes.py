"""Passes of a network and the choice of tokens by the native kernels, in place of graphs.

They read and write the arrays that the graphs of the same names do (`encoder_graph`,
`decoder_graph`, `greedy_graph`, `chained_graph`).
"""

from __future__ import annotations

import ctypes
import re
from functools import partial
from typing import Any

import numpy as np

from multistride.engines.int8.native import library
from multistride.engines.int8.native.library import Work
from multistride.engines.int8.native.stored import Array, aligned


class NativePass:
    """Passes of the decoder over any number of slots, or of the encoder."""

    def __init__(self, work: Work, threads: int) -> None:
        self._work, self._threads = work, threads

    def bound(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> BoundPass:
        """Return a pass, bound to the values that it reads and writes from now on."""
        return BoundPass(self._work, self._threads, inputs, outputs)

    def fill(self, inputs: dict[str, Array], outputs: dict[str, Array]) -> None:
        """Compute all outputs into the given arrays."""
        values = ({name: _Value(each) for name, each in part.items()} for part in (inputs, outputs))
        self.bound(*values)()


class _Value:
    """An array, seen as the kernels see the values of ONNX Runtime."""

    def __init__(self, array: Array) -> None:
        assert array.flags.c_contiguous
        self._array = array
        self.shape, self.data_ptr = partial(tuple, array.shape), lambda: array.ctypes.data


NAMES = {"source": "token"}
"""The inputs of the encoder graph by what a pass calls them."""

CACHE = re.compile(r"(cross_)?(key|value)([0-9]+)")


class BoundPass:
    """A pass and the memory it works on."""

    def __init__(
        self, work: Work, threads: int, inputs: dict[str, Any], outputs: dict[str, Any]
    ) -> None:
        self._work, self._kept = work, dict[str, Any]()
        rows, slots = inputs["token" if "token" in inputs else "source"].shape()
        self._pass = library.Pass(rows=rows, slots=slots)
        self._caches = {name: (ctypes.c_void_p * work.layers)() for name in library.CACHES}
        for name, table in self._caches.items():
            setattr(self._pass, name, ctypes.addressof(table))
        if "hidden" in outputs:
            self._kept["hidden"] = outputs["hidden"]
            self._pass.hidden = outputs["hidden"].data_ptr()
        self._given = ctypes.addressof(work.weights), ctypes.addressof(self._pass), threads
        self._longest = -1
        self.read({**inputs, **outputs})

    def read(self, values: dict[str, Any]) -> None:
        """Read other values from now on."""
        each = self._pass
        for name, value in values.items():
            name = NAMES.get(name, name)
            if name in library.READ:
                setattr(each, name, value.data_ptr())
            elif (found := CACHE.fullmatch(name)) is not None:
                table = self._caches[f"{found[1] or ''}{found[2]}s"]
                table[int(found[3])] = value.data_ptr()
                if name == "key0":
                    each.room = value.shape()[2]
            else:
                continue
            self._kept[name] = value
            if name == "bias":
                each.bias_rows = value.shape()[0]
            elif name == "real":
                each.source = value.shape()[1]
        if (longest := max(each.room, each.source)) > self._longest:
            self._longest = longest
            self._scratch = aligned(self._work.scratch(*self._given))
            each.scratch = self._scratch.ctypes.data

    def __call__(self) -> None:
        """Compute all outputs."""
        self._work.run(*self._given)


class NativePicker:
    """The choice of tokens: each by itself, or chained in groups."""

    def __init__(self, work: Work, chained: bool, threads: int) -> None:
        self._work, self._chained, self._threads = work, chained, threads

    def __call__(self, inputs: dict[str, Array]) -> list[Array]:
        """Return tokens and log-probabilities."""
        hidden = np.ascontiguousarray(inputs["hidden"])
        shape = hidden.shape[:-1]
        tokens, certain = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        outputs = {"tokens": _Value(tokens), "log_probabilities": _Value(certain)}
        self.bound({"hidden": _Value(hidden)}, outputs)()
        return [tokens, certain]

    def bound(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> BoundPick:
        """Return the choice, bound to the values that it reads and writes from now on."""
        values = inputs["hidden"], outputs["tokens"], outputs["log_probabilities"]
        return BoundPick(self._work, self._chained, self._threads, *values)


class BoundPick:
    """A choice of tokens and the memory it works on."""

    def __init__(
        self,
        work: Work,
        chained: bool,
        threads: int,
        hidden: Any,
        tokens: Any,
        log_probabilities: Any,
    ) -> None:
        *shape, _ = hidden.shape()
        size = shape[1] if chained else 1
        rows = int(np.prod(shape)) // size
        picker = ctypes.addressof(work.weights)
        scratch = aligned(work.scratch(picker, rows, size))
        self._kept = work, hidden, tokens, log_probabilities, scratch
        written = tokens.data_ptr(), log_probabilities.data_ptr(), scratch.ctypes.data
        self._run = partial(work.run, picker, hidden.data_ptr(), rows, size, *written, threads)

    def __call__(self) -> None:
        """Compute all outputs."""
        self._run()
