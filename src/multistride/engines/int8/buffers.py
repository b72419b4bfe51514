"""Graphs in ONNX Runtime, and the arrays that they read and write in place, bound once.

Keys and values are in buffers with room to grow; a step writes its own behind the existing ones,
and nothing is copied. Buffers and their bindings outlive a batch: the next batch of the same size
reuses them. Nothing here needs PyTorch.

Shapes: B sentences, S source tokens, N new slots, C slots there is room for, H heads, D = H E
hidden size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from multistride.engines.int8.runtime import onnxruntime

MASKED = float(np.finfo(np.float32).min)
"""Added to the score of a slot that is not visible."""


ROOM = 8
"""Buffers have room for a multiple of this many slots. Unused room slows attention in a graph."""


LARGE_ROOM = 32
"""The same for causal models, whose texts are long, and for native kernels, which do not read what
is unused: a move copies all slots of all layers."""


SLOW_FUSIONS = ["SkipLayerNormFusion"]
"""Fusions that ONNX Runtime must not apply: here the fused operator is slower than its parts."""


PICKED = 64
"""Maximum number of slots projected at once: the logits of more do not fit into a cache."""


SPARE = 6
"""Maximum number of buffers kept for later batches."""


SPARE_BYTES = 16 * 2**20
"""Maximum size of the buffers kept for later batches, unless there is only one."""


GraphMaker = Callable[[], bytes | Path]
"""Builds a graph, as the bytes of an ONNX file, or names the file that holds it."""


Array = NDArray[Any]


class View:
    """An array as networks see it: they read and write its memory in place."""

    def __init__(self, array: Array) -> None:
        """Take an array whose entries follow each other in memory."""
        assert array.flags.c_contiguous
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the array."""
        return self.array.shape

    @cached_property
    def address(self) -> int:
        """The place of the first entry."""
        return int(self.array.ctypes.data)

    @cached_property
    def in_onnxruntime(self) -> Any:
        """Return the same memory as a value of ONNX Runtime."""
        return onnxruntime().OrtValue.ortvalue_from_numpy(self.array)


Views = dict[str, View]


@cache
def share_arena() -> None:
    """Let all graphs of the process take what they need while they run from one memory arena.

    With an arena of its own, each keeps what its largest batch took. This arena grows by what is
    asked for, where ONNX Runtime's own doubles.
    """
    library = onnxruntime()
    memory = library.OrtMemoryInfo(
        "Cpu", library.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, library.OrtMemType.DEFAULT
    )
    as_requested = library.OrtArenaCfg({"arena_extend_strategy": 1})
    library.create_and_register_allocator(memory, as_requested)


class Network:
    """One graph in ONNX Runtime: named input arrays to all outputs."""

    def __init__(self, graph: bytes | Path, threads: int) -> None:
        share_arena()
        library = onnxruntime()
        options = library.SessionOptions()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # x86 before VNNI adds two products of bytes in 16 bits, which saturate, unless told not to.
        options.add_session_config_entry("session.x64quantprecision", "1")
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        content = graph if isinstance(graph, bytes) else str(graph)
        self._session: Any = library.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOW_FUSIONS
        )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: dict[str, Array]) -> list[Array]:
        """Compute all outputs, in the order in which the graph declares them."""
        outputs: list[Array] = self._session.run(self._outputs, inputs)
        return outputs

    def fill(self, inputs: dict[str, Array], outputs: dict[str, Array]) -> None:
        """Compute all outputs into the given arrays."""
        given, written = (
            {name: View(array) for name, array in each.items()} for each in (inputs, outputs)
        )
        self.bound(given, written)()

    def bound(self, inputs: Views, outputs: Views) -> Bound:
        """Return the graph bound to the values that it reads and writes from now on."""
        return Bound(self._session, inputs, outputs)


class Bound:
    """A graph and the memory it works on."""

    def __init__(self, session: Any, inputs: Views, outputs: Views) -> None:
        self._session, self._binding = session, session.io_binding()
        for name, value in outputs.items():
            self._binding.bind_ortvalue_output(name, value.in_onnxruntime)
        self.read(inputs)

    def read(self, inputs: Views) -> None:
        """Read other values from now on."""
        for name, value in inputs.items():
            self._binding.bind_ortvalue_input(name, value.in_onnxruntime)

    def __call__(self) -> None:
        """Compute all outputs."""
        self._session.run_with_iobinding(self._binding)


class CheckedSlots(NamedTuple):
    """Tokens of the clean slots of a pass, and the drafts of those behind them.

    Drafts are chained from the token of the last clean slot; those of some rows are computed when
    `draft` is called with them, before the next pass.
    """

    tokens: Int[np.ndarray, "B C"]
    log_probabilities: Float[np.ndarray, "B C"]
    draft: Callable[[Int[np.ndarray, "F"]], Int[np.ndarray, "F D"]]


GREEDY, CHAINED, SEARCHED = "greedy", "chained", "searched"
"""Names of what picks tokens: each by itself, by the one before in its group, or groups that a beam
finds; the last is followed by the groups that the beam keeps."""


def picking(chains: bool, size: int, beam: int) -> str:
    """Return the name of what picks groups of a size, `chains` if the model has a Markov head."""
    if not chains or size == 1:
        return GREEDY
    return CHAINED if beam == 1 else f"{SEARCHED}{beam}"


def searched_by(name: str) -> int | None:
    """Return the beam of a name that `picking` returns; None where nothing is searched."""
    beam = name.removeprefix(SEARCHED)
    return int(beam) if beam != name else None


class Networks:
    """The graphs of a model by name, each built and opened in ONNX Runtime on first use."""

    def __init__(self, graphs: Mapping[str, GraphMaker], threads: int) -> None:
        self._graphs, self._threads = dict(graphs), threads
        self._open: dict[str, Network] = {}

    def __getitem__(self, name: str) -> Network:
        if name not in self._open:
            self._open[name] = Network(self._graphs.pop(name)(), self._threads)
        return self._open[name]

    def decoder(self, new: int) -> Network:
        """Return the graph for steps of `new` slots; not all models have one of a single slot."""
        single = new == 1 and ("single" in self._graphs or "single" in self._open)
        return self["single" if single else "decoder"]

    def picked(self, hidden: Array, name: str) -> tuple[Array, Array]:
        """Return the tokens of slots [B, N, D] and their log-probabilities [B, N], picked as
        `picking` names it.
        """
        grouped = name != GREEDY
        rows = np.ascontiguousarray(hidden if grouped else hidden.reshape(-1, hidden.shape[2]))
        found = self[name]({"hidden": rows})
        tokens, log_probabilities = (each.reshape(hidden.shape[:2]) for each in found)
        return tokens, log_probabilities

    def check(self, hidden: Array, clean: int, chained: bool) -> CheckedSlots:
        """Pick in the first `clean` slots of `hidden` [B, N, D] each by itself, and draft in the
        others, `chained` or not, when drafts are asked for.
        """
        if clean == 1:  # all rows draft: one product for all slots
            tokens, certain = self.picked(hidden, picking(chained, hidden.shape[1], 1))
            return CheckedSlots(tokens[:, :1], certain[:, :1], lambda rows: tokens[rows, 1:])

        def draft(rows: Array) -> Array:
            return self.picked(hidden[rows, clean - 1 :], CHAINED if chained else GREEDY)[0][:, 1:]

        return CheckedSlots(*self.picked(hidden[:, :clean], GREEDY), draft)


class Sizes(NamedTuple):
    """The sizes of a model's arrays."""

    layers: int
    heads: int
    """Heads of keys and values."""
    width: int
    hidden: int
    rounded: bool = True
    """True if hidden states are in 8 bits when they leave the decoder."""
    placed: bool = False
    """True if attention depends on how far apart slots are: their positions are kept as well."""
    room: int = ROOM
    """Buffers have room for a multiple of this many slots."""
    read_whole: bool = True
    """True if attention reads all slots there is room for, and gives unused ones no weight (the
    graphs of ONNX Runtime): none of them may hold an infinity or a NaN."""

    @property
    def parts(self) -> list[str]:
        """The names of the keys and values of all layers."""
        return [f"{part}{index}" for index in range(self.layers) for part in ("key", "value")]


class EncodedSource:
    """The encoded source by the input names of the decoder graph; empty for a causal model.

    Keys and values `cross_key0`, `cross_value0` ... are float32 [B, H, S, E]; `real` int32 [B, S]
    is 0 for padding.
    """

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays = arrays

    @cached_property
    def values(self) -> Views:
        """The arrays as networks see them."""
        return {name: View(array) for name, array in self._arrays.items()}

    def reordered(self, rows: Int[np.ndarray, "R"]) -> EncodedSource:
        """Return the given rows, in the given order, in the same memory if possible.

        This object must not be used afterwards.
        """
        moved = gaps_filled(rows)
        if moved is None:
            return EncodedSource(
                {name: array.take(rows, 0) for name, array in self._arrays.items()}
            )
        for array in self._arrays.values():
            array[moved[0]] = array[moved[1]]
        return EncodedSource({name: array[: len(rows)] for name, array in self._arrays.items()})

    def joined(self, other: EncodedSource) -> EncodedSource:
        """Return the rows of both, as wide as the longest source of either.

        Neither object may be used afterwards.
        """
        if not self._arrays:
            return self
        pair = self._arrays, other._arrays
        width = max(int(arrays["real"].sum(1).max()) for arrays in pair)
        whole: dict[str, Array] = {}
        for name, mine in self._arrays.items():
            axis = 1 if name == "real" else 2
            parts = [_fitted(array, axis, width) for array in (mine, other._arrays[name])]
            whole[name] = np.concatenate(parts)
        return EncodedSource(whole)


def _fitted(array: Array, axis: int, width: int) -> Array:
    """Return an array cut or padded with zeros at the end of one axis."""
    fitted = array.take(range(min(width, array.shape[axis])), axis)
    missing = [(0, width - fitted.shape[axis] if each == axis else 0) for each in range(array.ndim)]
    return np.pad(fitted, missing)


def clear_overflows(array: Array) -> None:
    """Set an array to zero if not all of its entries are numbers, by their sum."""
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isfinite(array.sum()):
            array[:] = 0


def gaps_filled(rows: Int[np.ndarray, "R"]) -> tuple[Array, Array] | None:
    """Return target and source indices of the copies that move the given rows to the front.

    None if that takes more than filling gaps with later rows.
    """
    places = np.flatnonzero(rows != np.arange(len(rows)))
    return (places, rows[places]) if (rows[places] >= len(rows)).all() else None


class Buffers:
    """Keys and values of up to `rows` sentences of `room` slots, and the steps bound to them."""

    def __init__(self, sizes: Sizes, rows: int, room: int) -> None:
        self.sizes, self.rows, self.room = sizes, rows, room
        shape = rows, sizes.heads, room, sizes.width
        self.arrays = {name: np.zeros(shape, np.float32) for name in sizes.parts}
        if sizes.placed:
            self.arrays["place"] = np.zeros((rows, 1, room, 1), np.float32)
        self.size = sum(array.nbytes for array in self.arrays.values())
        """In bytes."""
        self._steps: dict[tuple[int, int], Step] = {}

    def clear_overflows(self) -> None:
        """Set arrays to zero that hold an infinity or a NaN, which a text has left that overflowed.

        No weight times a NaN is a NaN: it would be in all later texts.
        """
        for array in self.arrays.values():
            clear_overflows(array)

    def step(self, rows: int, new: int, networks: Networks, source: EncodedSource) -> Step:
        """Return the step of `new` slots in each of the first rows, bound to a source."""
        if (rows, new) not in self._steps:
            self._steps[rows, new] = Step(self, rows, new, networks, source)
        step = self._steps[rows, new]
        step.turn_to(source)
        return step


class Step:
    """The arrays of one step: fill them, run it, and read `hidden` uint8 [B, N, D]."""

    def __init__(
        self, buffers: Buffers, rows: int, new: int, networks: Networks, source: EncodedSource
    ) -> None:
        room, sizes = buffers.room, buffers.sizes
        self.token, self.position, self.reach = (np.zeros((rows, new), np.int64) for _ in range(3))
        self.start = np.zeros(rows, np.int64)
        self.bias = np.zeros((1, 1, new, room), np.float32)
        kind = np.uint8 if sizes.rounded else np.float32
        self.hidden: Array = np.zeros((rows, new, sizes.hidden), kind)
        self._picked: dict[str, Picked] = {}
        self._each: Array | None = None
        read = {name: View(getattr(self, name)) for name in ("token", "position", "reach", "start")}
        self._bias = View(self.bias)
        self._source, self._alike = source, True
        caches = {name: View(array[:rows]) for name, array in buffers.arrays.items()}
        written = {f"new_{name}": value for name, value in caches.items()}
        self._run = networks.decoder(new).bound(
            {**read, "bias": self._bias, **source.values, **caches},
            {**written, "hidden": View(self.hidden)},
        )

    def turn_to(self, source: EncodedSource) -> None:
        """Read another source."""
        if source is not self._source:
            self._run.read(source.values)
            self._source = source

    def __call__(
        self, length: int, visible: Bool[np.ndarray, "B N M"] | None, clean: int = 0
    ) -> None:
        """Write the new slots after `length` existing ones; they see `visible` slots (None: all).

        The first `clean` new slots do not see the later new ones.
        """
        self.start.fill(length)
        self._run_seeing(length, visible, clean)

    def uneven(self, lengths: Int[np.ndarray, "B"]) -> None:
        """Write the new slots of each row behind the `lengths` that it has; they see all of its."""
        if self._each is None:
            rows, (new, room) = len(self.start), self.bias.shape[2:]
            self._each = np.empty((rows, 1, new, room), np.float32)
            self._each_bound = View(self._each)
        new, room = self._each.shape[2:]
        seen = np.arange(room) < lengths[:, None] + new
        self._each[:, 0] = np.where(seen, np.float32(0), np.float32(MASKED))[:, None]
        self.start[:] = lengths
        self._run.read({"bias": self._each_bound})
        self._alike = False
        self._run()

    def after(
        self, starts: Int[np.ndarray, "B"], visible: Bool[np.ndarray, "B N M"] | None
    ) -> None:
        """Write the new slots of each row after the first `starts` of it."""
        self.start[:] = starts
        self._run_seeing(int(self.start.max(initial=0)), visible, 0)

    def _run_seeing(
        self, length: int, visible: Bool[np.ndarray, "B N M"] | None, clean: int
    ) -> None:
        new, room = self.bias.shape[2:]
        if visible is not None:
            bias = np.full((len(self.start), 1, new, room), np.float32(MASKED))
            bias[:, 0, :, : visible.shape[2]] = np.where(visible, np.float32(0), np.float32(MASKED))
            self._run.read({"bias": View(bias)})
            self._alike = False
        else:
            self.bias[..., : length + new] = 0
            self.bias[..., length + new :] = MASKED
            for slot in range(clean):
                self.bias[0, 0, slot, length + slot + 1 : length + new] = MASKED
            if not self._alike:
                self._run.read({"bias": self._bias})
                self._alike = True
        self._run()

    def pick(self, networks: Networks, name: str) -> Picked:
        """Return the tokens of all slots and their log-probabilities, as `picking` names it."""
        if name not in self._picked:
            self._picked[name] = Picked(self.hidden, networks[name], name != GREEDY)
        return self._picked[name]


class Picked:
    """The most probable tokens of a step's slots, in arrays [B, N] that every run overwrites."""

    def __init__(self, hidden: Array, network: Network, grouped: bool) -> None:
        """`grouped`: the slots of a sentence are picked together."""
        self.tokens = np.zeros(hidden.shape[:2], np.int64)
        self.log_probabilities = np.zeros(hidden.shape[:2], np.float32)
        together = max(1, PICKED // hidden.shape[1])
        parts = [slice(first, first + together) for first in range(0, len(hidden), together)]
        self._runs = [self._run(network, hidden[part], part, grouped) for part in parts]

    def _run(self, network: Network, hidden: Array, part: slice, grouped: bool) -> Bound:
        rows = hidden if grouped else hidden.reshape(-1, hidden.shape[2])
        shape = rows.shape[:-1]
        outputs = {
            "tokens": View(self.tokens[part].reshape(shape)),
            "log_probabilities": View(self.log_probabilities[part].reshape(shape)),
        }
        return network.bound({"hidden": View(rows)}, outputs)

    def __call__(self) -> tuple[Array, Array]:
        """Pick the tokens; return copies of tokens and log-probabilities."""
        for run in self._runs:
            run()
        return self.tokens.copy(), self.log_probabilities.copy()


B = TypeVar("B", bound=Buffers)


def drop_oldest(spare: list[B], most: int) -> None:
    """Drop the first of the spare buffers beyond `most` of them, and beyond `SPARE_BYTES`."""
    del spare[:-most]
    while len(spare) > 1 and sum(each.size for each in spare) > SPARE_BYTES:
        del spare[0]


class Pool:
    """Buffers that no batch uses at present."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes, self._spare, self._lock = sizes, list[Buffers](), threading.Lock()

    def take(self, rows: int, slots: int) -> Buffers:
        """Return buffers for `rows` sentences, with room for at least `slots` slots."""
        unit = self.sizes.room
        room = unit * max(1, -(-slots // unit))
        with self._lock:
            for place, each in enumerate(self._spare):
                if (each.rows, each.room) == (rows, room):
                    return self._spare.pop(place)
        return Buffers(self.sizes, rows, room)

    def give(self, buffers: Buffers) -> None:
        """Take buffers back; the oldest are dropped beyond `SPARE` and `SPARE_BYTES`."""
        if self.sizes.read_whole:
            buffers.clear_overflows()
        with self._lock:
            self._spare.append(buffers)
            drop_oldest(self._spare, SPARE)
