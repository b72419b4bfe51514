"""The compiled kernels (C files beside this one), their structures, and whether they are to run."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from numpy.typing import NDArray

from multistride.errors import UsageError

Arrays = dict[str, NDArray[Any]]

POINTER, INT = ctypes.c_void_p, ctypes.c_int32

CHOICE = "MULTISTRIDE_KERNELS"
"""The environment variable that says what the int8 engine computes with: `auto` (the native kernels
where they can run), `native`, `avx2` (native kernels without AVX-512, on any CPU that has AVX2) or
`onnxruntime`."""

CHOICES = "auto", "native", "avx2", "onnxruntime"

NATIVE = "native"
"""The name of the weights of the native kernels among the graphs of a model."""

PANEL = 64
"""Outputs that are multiplied together (`kernels.h`)."""

VECTOR = 16
"""Numbers that are computed together: sizes are multiples of it."""

ALIGNED = 64
"""Bytes: arrays begin at multiples of as many, as vectors of the CPU do."""

_X86 = {
    "avx512": ("multistride.engines.int8.native.kernels", "AVX-512 VNNI"),
    "avx2": ("multistride.engines.int8.native.kernels_avx2", "AVX2"),
}
_ARM = {"neon": ("multistride.engines.int8.native.kernels", "NEON")}

ARM = platform.machine().lower() in ("aarch64", "arm64")
"""True on 64-bit ARM."""

MODULES = _ARM if ARM else _X86
"""The same kernels compiled for several instruction sets, the fastest first: modules, and what the
instructions are called."""

WIDEST = 8
"""Groups of a beam that the kernels can search (`choice.c`)."""

VERSION = 6
"""The number of `kernels.h` that these structures and arrays belong to. In a clone that was updated
and not installed again, compiled kernels are older, and would read memory that is not theirs."""


def _structure(name: str, *fields: tuple[str, Any]) -> Any:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields)})


Matrix = _structure(
    "Matrix",
    *((name, POINTER) for name in ("weights", "scale", "offset")),
    ("inputs", INT),
    ("outputs", INT),
)
Norm = _structure("Norm", ("weight", POINTER), ("bias", POINTER), ("epsilon", ctypes.c_float))
NORMS = "attention_norm", "cross_norm", "feedforward_norm"
MATRICES = "input", "output", "query", "cross_output", "widen", "narrow"
UNITS = "attention_unit", "cross_unit"
Layer = _structure(
    "Layer",
    *((name, Norm) for name in NORMS),
    *((name, Matrix) for name in MATRICES),
    *((name, ctypes.c_float) for name in UNITS),
)
TABLES = "embedding", "embedding_scale", "positions", "reaches"
SIZES = (
    *("layer_count", "pair_count", "hidden", "widened", "heads"),
    *("token_count", "position_count", "reach_count"),
)
Network = _structure(
    "Network",
    *((name, POINTER) for name in TABLES),
    ("final_norm", Norm),
    ("layers", POINTER),
    ("pairs", POINTER),
    *((name, INT) for name in SIZES),
)
LINEAR = "weights", "scale", "step", "least", "bias"
Linear = _structure(
    "Linear",
    *((name, POINTER) for name in LINEAR),
    ("inputs", INT),
    ("outputs", INT),
)
Around = _structure("Around", ("weight", POINTER), ("bias", POINTER))
PLACES = "before", "of_output", "after"
Norms = _structure("Norms", *((place, Around) for place in PLACES))
SUBLAYERS = "attention", "cross", "forward"
HEAD_NORMS = "query_norm", "key_norm"
ConvertedLayer = _structure(
    "ConvertedLayer",
    *((name, Norms) for name in SUBLAYERS),
    *((name, Around) for name in HEAD_NORMS),
    *((name, Linear) for name in MATRICES),
    ("slides", INT),
)
ROTATIONS = "cosine", "sine", "sliding_cosine", "sliding_sine"
CONVERTED_TABLES = (
    *("embedding", "embedding_scale", "positions", "starts", "reaches"),
    *(*ROTATIONS, "distances"),
)
ACTIVATIONS = "relu", "gelu", "gelu-tanh", "silu"
CONVERTED_SIZES = (
    *("layer_count", "pair_count", "hidden", "widened", "heads", "groups", "width"),
    *("token_count", "position_count", "start_count", "reach_count", "rotation_count"),
    *("block", "activation", "gated", "parallel", "all_heads", "window", "furthest"),
)
Converted = _structure(
    "Converted",
    *((name, POINTER) for name in CONVERTED_TABLES),
    *((name, Around) for name in ("embedding_norm", "final_norm")),
    *((name, POINTER) for name in ("layers", "pairs")),
    *((name, ctypes.c_float) for name in ("epsilon", "cap")),
    *((name, INT) for name in CONVERTED_SIZES),
)
READ = "token", "position", "reach", "start", "bias", "real", "place"
CACHES = "keys", "values", "cross_keys", "cross_values"
EXTENTS = "rows", "slots", "room", "source", "bias_rows"
Pass = _structure(
    "Pass",
    *((name, POINTER) for name in (*READ, *CACHES, "hidden", "scratch")),
    *((name, INT) for name in EXTENTS),
)
Markov = _structure(
    "Markov",
    *((name, POINTER) for name in ("previous", "previous_scale")),
    ("following", Matrix),
)
Picker = _structure("Picker", ("output", Matrix), ("markov", Markov))
ConvertedPicker = _structure(
    "ConvertedPicker",
    ("output", Linear),
    ("markov", Markov),
    ("barred", POINTER),
    ("cap", ctypes.c_float),
    ("block", INT),
)
HEAD_TABLES = "table", "table_scale", "gain", "into", "keep"
HEAD_LAYERS = "widen", "narrow", "output"
Head = _structure(
    "Head",
    *((name, POINTER) for name in HEAD_TABLES),
    *((name, Linear) for name in HEAD_LAYERS),
    ("hidden", INT),
    ("known", INT),
)
Drafting = _structure(
    "Drafting",
    *((name, POINTER) for name in ("states", "written", "drafts", "log_probabilities", "scratch")),
    ("least", ctypes.c_float),
    *((name, INT) for name in ("rows", "count", "made")),
)
TREE = "state", "drafts", "parents", "log_probabilities", "scratch"
Growing = _structure(
    "Growing",
    *((name, POINTER) for name in TREE),
    ("written", ctypes.c_int64),
    ("least", ctypes.c_float),
    ("count", INT),
    ("made", INT),
)
WRITTEN = "tokens", "log_probabilities", "logits"
Picking = _structure(
    "Picking",
    *((name, POINTER) for name in ("hidden", *WRITTEN, "scratch")),
    *((name, INT) for name in ("sentences", "slots", "clean")),
)
FOUND = "tokens", "log_probabilities"
Searching = _structure(
    "Searching",
    *((name, POINTER) for name in ("logits", *FOUND, "ends", "scratch")),
    *((name, INT) for name in ("sentences", "slots", "end_count", "beam")),
)


class Work(NamedTuple):
    """A computation of the kernels: its function, that for its scratch memory, its weights."""

    run: Callable[..., None]
    scratch: Callable[..., int]
    weights: Any
    """A structure of this module."""
    owner: object
    """Keeps the memory that the structure points to."""
    layers: int = 0


def works_of(
    kind: str, networks: dict[str, Any], picker: Any, owner: object, layers: int
) -> dict[str, Work]:
    """Return what the kernels compute for a model, by the names of the graphs that do so too.

    `kind` begins the names of their functions; `picker` chooses tokens.
    """
    library = kernels()
    run, scratch = (getattr(library, f"ms_{kind}{name}") for name in ("run", "scratch"))
    pick, room = (getattr(library, f"ms_{kind}{name}") for name in ("pick", "pick_scratch"))
    works = {name: Work(run, scratch, network, owner, layers) for name, network in networks.items()}
    works["greedy"] = Work(pick, room, picker, owner)
    if picker.markov.previous:
        head = picker.markov, owner
        works["chain"] = Work(library.ms_chain, library.ms_chain_scratch, *head)
        works["search"] = Work(library.ms_search, library.ms_search_scratch, *head)
    return works


def markov_of(arrays: Arrays) -> Any:
    """Return the structure of a Markov head whose arrays `pack_translation` made."""

    def place(name: str) -> int:
        return int(arrays[f"markov.{name}"].ctypes.data)

    parts = (place(f"following.{part}") for part in ("weights", "scale", "offset"))
    panels, fours, outputs, _ = arrays["markov.following.weights"].shape
    matrix = Matrix(*parts, 4 * fours, panels * outputs)
    return Markov(place("previous"), place("previous_scale"), matrix)


def kernels() -> Any:
    """Return the compiled kernels that are to run; None where there are none that can."""
    found = instructions()
    return None if found is None else _compiled(found)


def instructions() -> str | None:
    """Return the key in `MODULES` of the kernels that are to run; None where none can."""
    only = os.environ.get(CHOICE) == "avx2"
    allowed = (name for name in MODULES if name == "avx2" or not only)
    return next((name for name in allowed if _compiled(name) is not None), None)


def described() -> str:
    """Return what kernels run, in words; those for AVX-512 are called just native kernels."""
    found = instructions()
    return "native kernels" if found in (None, "avx512") else f"{MODULES[found][1]} native kernels"


@cache
def _compiled(name: str) -> Any:
    """Return the kernels of this instruction set; None where they were not built, or the CPU cannot
    run them.
    """
    if (place := _place(name)) is None:
        return None
    library = ctypes.CDLL(place)
    if not _fits(library) or not library.ms_supported():
        return None  # other compilers build a module without kernels
    run = None, [POINTER, POINTER, INT]
    signatures = {
        "ms_run": run,
        "ms_scratch": (ctypes.c_size_t, run[1]),
        "ms_converted_run": run,
        "ms_converted_scratch": (ctypes.c_size_t, run[1]),
        "ms_pick": run,
        "ms_pick_scratch": (ctypes.c_size_t, [POINTER, INT]),
        "ms_converted_pick": run,
        "ms_converted_pick_scratch": (ctypes.c_size_t, [POINTER, INT]),
        "ms_chain": run,
        "ms_chain_scratch": (ctypes.c_size_t, [POINTER, INT]),
        "ms_search": run,
        "ms_search_scratch": (ctypes.c_size_t, [POINTER, POINTER]),
        "ms_draft": run,
        "ms_draft_scratch": (ctypes.c_size_t, [POINTER, INT, INT]),
        "ms_grow": run,
        "ms_grow_scratch": (ctypes.c_size_t, [POINTER, INT, INT]),
    }
    for function_name, (result, arguments) in signatures.items():
        function = getattr(library, function_name)
        function.restype, function.argtypes = result, arguments
    return library


def _place(name: str) -> str | None:
    """Return the file of a module of kernels; None where it was not built."""
    found = importlib.util.find_spec(MODULES[name][0])
    return None if found is None else found.origin


def _fits(library: Any) -> bool:
    """Return True for kernels of this version."""
    return hasattr(library, "ms_version") and bool(library.ms_version() == VERSION)


def wanted() -> bool:
    """Return True if the native kernels are to run.

    Raises `UsageError` for an unknown choice, and where they were asked for and cannot run.
    """
    choice = os.environ.get(CHOICE) or "auto"
    if choice not in CHOICES:
        allowed = ", ".join(CHOICES)
        raise UsageError(f"{CHOICE} is {choice!r}; allowed are {allowed}: set one of them")
    reason = missing()
    if choice in ("native", "avx2") and reason is not None:
        raise UsageError(f"{CHOICE} is {choice}, and {reason}: set it to auto")
    return choice != "onnxruntime" and reason is None


def missing() -> str | None:
    """Return why the native kernels cannot run here; None if they can."""
    if kernels() is not None:
        return None
    places = [place for place in map(_place, MODULES) if place is not None]
    if not places:
        return "the native kernels were not built (they take a C compiler when installing)"
    compiled = [ctypes.CDLL(place) for place in places]
    others = [each for each in compiled if hasattr(each, "ms_supported") and not _fits(each)]
    if others or len(places) < len(MODULES):
        return "the native kernels were built from other code: install multistride again"
    no_avx2 = not ARM or os.environ.get(CHOICE) == "avx2"
    needed = "AVX2" if no_avx2 else "dot products of bytes (asimddp)"
    return f"this CPU has no {needed}, which the native kernels use"
