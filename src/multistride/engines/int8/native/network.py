"""Passes of encoder and decoder and the choice of tokens by the native kernels, in place of graphs.

They read and write the arrays that the graphs of the same names do (`encoder_graph`,
`decoder_graph`, `greedy_graph`, `chained_graph`).
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistride.engines.int8.native import library
from multistride.engines.int8.native.library import ALIGNED
from multistride.errors import DataError
from multistride.model.config import TransformerConfig
from multistride.model.directory import INT8_NATIVE

Array = NDArray[Any]


DAMAGED = f"{INT8_NATIVE} is damaged or of another model: export the model again"


def read(content: bytes | Path) -> dict[str, Array]:
    """Return the arrays that `program.content_of` wrote; those of a file are mapped.

    Raises `DataError` for anything else.
    """
    if isinstance(content, Path):
        with content.open("rb") as file:
            memory: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    else:
        memory = aligned(len(content))
        memory[:] = np.frombuffer(content, np.uint8)
    try:
        first = 8 + int.from_bytes(bytes(memory[:8]), "little")
        arrays = {}
        for name, (kind, shape, place) in json.loads(bytes(memory[8:first])).items():
            count = math.prod(shape)
            arrays[name] = np.frombuffer(memory, kind, count, first + place).reshape(shape)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{DAMAGED} ({error})") from error
    return arrays


def aligned(count: int) -> NDArray[np.uint8]:
    """Return so many bytes of memory that begin where vectors do."""
    memory = np.empty(count + ALIGNED, np.uint8)
    first = -memory.ctypes.data % ALIGNED
    return memory[first : first + count]


class Native:
    """The weights of one model, and the structures by which the kernels find them."""

    def __init__(self, content: bytes | Path, config: TransformerConfig) -> None:
        """Take weights as `program.content_of` wrote them.

        Raises `DataError` for arrays of other sizes than `config` says: kernels trust them.
        """
        self._arrays = read(content)
        _check(self._arrays, config)
        self.kernels = library.kernels()
        self._tables: list[Any] = []
        layers, pairs = config.decoder_layers, self._pairs(config.decoder_layers)
        encoder = self._layers("encoder", config.encoder_layers), pairs
        self.encoder = self._network("encoder", *encoder, config.heads)
        decoder = self._layers("decoder", layers), None
        self.decoder = self._network("decoder", *decoder, config.heads)
        self.picker = library.Picker(output=self._matrix("picked"))
        if "markov.previous" in self._arrays:
            self.picker.previous = self._place("markov.previous")
            self.picker.previous_scale = self._place("markov.previous_scale")
            self.picker.following = self._matrix("markov.following")

    def _network(self, name: str, layers: Any, pairs: Any, heads: int) -> Any:
        part = self._arrays
        reaches = part.get(f"{name}.reaches")
        self._tables += [layers, pairs]
        return library.Network(
            **{each: self._place(f"{name}.{each}") for each in library.TABLES},
            final_norm=self._norm(f"{name}.final"),
            layers=ctypes.addressof(layers),
            pairs=None if pairs is None else ctypes.addressof(pairs),
            layer_count=len(layers),
            pair_count=0 if pairs is None else len(pairs),
            hidden=part[f"{name}.embedding"].shape[1],
            widened=part[f"{name}.layer0.widen.scale"].size,
            heads=heads,
            token_count=len(part[f"{name}.embedding"]),
            position_count=len(part[f"{name}.positions"]),
            reach_count=0 if reaches is None else len(reaches),
        )

    def _place(self, name: str) -> int | None:
        return int(self._arrays[name].ctypes.data) if name in self._arrays else None

    def _norm(self, name: str) -> Any:
        if f"{name}.weight" not in self._arrays:
            return library.Norm()
        epsilon = float(self._arrays[f"{name}.epsilon"][0])
        return library.Norm(self._place(f"{name}.weight"), self._place(f"{name}.bias"), epsilon)

    def _matrix(self, name: str) -> Any:
        if f"{name}.weights" not in self._arrays:
            return library.Matrix()
        panels, fours, outputs, _ = self._arrays[f"{name}.weights"].shape
        places = (self._place(f"{name}.{part}") for part in ("weights", "scale", "offset"))
        return library.Matrix(*places, 4 * fours, panels * outputs)

    def _layers(self, network: str, count: int) -> Any:
        layers = []
        for index in range(count):
            name = f"{network}.layer{index}"
            units = (self._arrays.get(f"{name}.{unit}", [0.0])[0] for unit in library.UNITS)
            layers.append(
                library.Layer(
                    *(self._norm(f"{name}.{norm}") for norm in library.NORMS),
                    *(self._matrix(f"{name}.{matrix}") for matrix in library.MATRICES),
                    *map(float, units),
                )
            )
        return (library.Layer * count)(*layers)

    def _pairs(self, count: int) -> Any:
        matrices = (self._matrix(f"encoder.pair{index}") for index in range(count))
        return (library.Matrix * count)(*matrices)


def _check(arrays: dict[str, Array], config: TransformerConfig) -> None:
    """Raise `DataError` unless there are all arrays of a model, each of its size."""
    found = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    tables = [name for name in found if name.endswith((".positions", ".reaches"))]
    wide = all(
        kind == "float32" and len(shape) == 2 and shape[0] and shape[1] == config.hidden_size
        for kind, shape in (found.pop(name) for name in tables)
    )
    expected = dict(_sizes(config))
    if found != expected or len(tables) != 3 or not wide:
        raise DataError(DAMAGED)


Size = tuple[str, tuple[str, tuple[int, ...]]]
"""The name of an array, its kind and its shape."""


def _sizes(config: TransformerConfig) -> Iterator[Size]:
    """Yield every array of a model but the tables of positions and reaches."""
    hidden, widened = config.hidden_size, config.feedforward_size
    for network, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        yield f"{network}.embedding", ("int8", (config.vocabulary_size, hidden))
        yield f"{network}.embedding_scale", ("float32", (config.vocabulary_size,))
        yield from _norm(f"{network}.final", hidden)
        cross = network == "decoder"
        for name in (f"{network}.layer{index}" for index in range(layers)):
            for norm in ("attention_norm", "feedforward_norm", *["cross_norm"] * cross):
                yield from _norm(f"{name}.{norm}", hidden)
            yield from _matrix(f"{name}.input", hidden, 3 * hidden)
            for matrix in ("output", *["query", "cross_output"] * cross):
                yield from _matrix(f"{name}.{matrix}", hidden, hidden)
            yield from _matrix(f"{name}.widen", hidden, widened)
            yield from _matrix(f"{name}.narrow", widened, hidden)
            for unit in ("attention_unit", *["cross_unit"] * cross):
                yield f"{name}.{unit}", ("float32", (1,))
    for index in range(config.decoder_layers):
        yield from _matrix(f"encoder.pair{index}", hidden, 2 * hidden)
    outputs = -(-config.vocabulary_size // library.PANEL) * library.PANEL
    yield from _matrix("picked", hidden, outputs)
    if config.markov_rank:
        yield "markov.previous", ("uint8", (config.vocabulary_size, config.markov_rank))
        yield "markov.previous_scale", ("float32", (config.vocabulary_size,))
        yield from _matrix("markov.following", config.markov_rank, outputs)


def _norm(name: str, width: int) -> Iterator[Size]:
    yield from ((f"{name}.{part}", ("float32", (width,))) for part in ("weight", "bias"))
    yield f"{name}.epsilon", ("float32", (1,))


def _matrix(name: str, inputs: int, outputs: int) -> Iterator[Size]:
    panels = outputs // library.PANEL
    yield f"{name}.weights", ("int8", (panels, inputs // 4, library.PANEL, 4))
    yield from ((f"{name}.{part}", ("float32", (outputs,))) for part in ("scale", "offset"))


class NativePass:
    """Passes of the decoder over any number of slots, or of the encoder."""

    def __init__(self, native: Native, network: Any, threads: int) -> None:
        self._native, self._network, self._threads = native, network, threads

    def bound(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> BoundPass:
        """Return a pass, bound to the values that it reads and writes from now on."""
        return BoundPass(self._native, self._network, self._threads, inputs, outputs)

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


NAMES = {"source": "token", "real": "real"}
"""The inputs of the encoder graph by what a pass calls them."""

CACHE = re.compile(r"(cross_)?(key|value)([0-9]+)")


class BoundPass:
    """A pass and the memory it works on."""

    def __init__(
        self,
        native: Native,
        network: Any,
        threads: int,
        inputs: dict[str, Any],
        outputs: dict[str, Any],
    ) -> None:
        self._kernels, self._threads = native.kernels, threads
        self._kept: dict[str, Any] = {"native": native}
        rows, slots = inputs["token" if "token" in inputs else "source"].shape()
        self._pass = library.Pass(rows=rows, slots=slots)
        layers = max(network.layer_count, network.pair_count)
        self._caches = {name: (ctypes.c_void_p * layers)() for name in library.CACHES}
        for name, table in self._caches.items():
            setattr(self._pass, name, ctypes.addressof(table))
        if "hidden" in outputs:
            self._kept["hidden"] = outputs["hidden"]
            self._pass.hidden = outputs["hidden"].data_ptr()
        self._given = ctypes.addressof(network), ctypes.addressof(self._pass), threads
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
            self._scratch = aligned(self._kernels.ms_scratch(*self._given))
            each.scratch = self._scratch.ctypes.data

    def __call__(self) -> None:
        """Compute all outputs."""
        self._kernels.ms_run(*self._given)


class NativePicker:
    """The choice of tokens: each by itself, or chained in groups."""

    def __init__(self, native: Native, chained: bool, threads: int) -> None:
        self._native, self._chained, self._threads = native, chained, threads

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
        return BoundPick(self._native, self._chained, self._threads, *values)


class BoundPick:
    """A choice of tokens and the memory it works on."""

    def __init__(
        self,
        native: Native,
        chained: bool,
        threads: int,
        hidden: Any,
        tokens: Any,
        log_probabilities: Any,
    ) -> None:
        *shape, _ = hidden.shape()
        size = shape[1] if chained else 1
        rows = int(np.prod(shape)) // size
        picker, kernels = ctypes.addressof(native.picker), native.kernels
        scratch = aligned(kernels.ms_pick_scratch(picker, rows, size, threads))
        self._kept = native, hidden, tokens, log_probabilities, scratch
        written = tokens.data_ptr(), log_probabilities.data_ptr(), scratch.ctypes.data
        self._run = partial(
            kernels.ms_pick, picker, hidden.data_ptr(), rows, size, *written, threads
        )

    def __call__(self) -> None:
        """Compute all outputs."""
        self._run()
