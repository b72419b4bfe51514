"""The compiled kernels (C files beside this one), their structures, and whether they are to run."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from multistride.errors import UsageError

POINTER, INT = ctypes.c_void_p, ctypes.c_int32

CHOICE = "MULTISTRIDE_KERNELS"
"""The environment variable that says what the int8 engine computes with: `auto` (the native kernels
where they can run), `native` or `onnxruntime`."""

CHOICES = "auto", "native", "onnxruntime"

NATIVE = "native"
"""The name of the weights of the native kernels among the graphs of a model."""

PANEL = 64
"""Outputs that are multiplied together (`kernels.h`)."""

ALIGNED = 64
"""Bytes: arrays begin at multiples of as many, as vectors of the CPU do."""

MODULE = "multistride.engines.int8.native.kernels"


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
Blocked = _structure(
    "Blocked",
    *((name, POINTER) for name in ("weights", "scale", "bias")),
    ("inputs", INT),
    ("outputs", INT),
)
CAUSAL_NORMS = "attention_norm", "feedforward_norm", "query_norm", "key_norm"
CAUSAL_MATRICES = "input", "output", "widen", "narrow"
CausalLayer = _structure(
    "CausalLayer",
    *((name, POINTER) for name in CAUSAL_NORMS),
    *((name, Blocked) for name in CAUSAL_MATRICES),
)
CAUSAL_TABLES = (
    *("embedding", "embedding_scale", "starts", "reaches"),
    *("cosine", "sine", "final_norm"),
)
CAUSAL_SIZES = (
    *("layer_count", "hidden", "widened", "heads", "groups", "width"),
    *("token_count", "position_count", "start_count", "reach_count"),
)
Causal = _structure(
    "Causal",
    *((name, POINTER) for name in (*CAUSAL_TABLES, "layers")),
    ("epsilon", ctypes.c_float),
    *((name, INT) for name in CAUSAL_SIZES),
)
READ = "token", "position", "reach", "start", "bias", "real"
CACHES = "keys", "values", "cross_keys", "cross_values"
EXTENTS = "rows", "slots", "room", "source", "bias_rows"
Pass = _structure(
    "Pass",
    *((name, POINTER) for name in (*READ, *CACHES, "hidden", "scratch")),
    *((name, INT) for name in EXTENTS),
)
Picker = _structure(
    "Picker",
    ("output", Matrix),
    ("previous", POINTER),
    ("previous_scale", POINTER),
    ("following", Matrix),
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


@cache
def kernels() -> Any:
    """Return the compiled kernels; None where they were not built, or the CPU cannot run them."""
    found = importlib.util.find_spec(MODULE)
    if found is None or found.origin is None:
        return None
    library = ctypes.CDLL(found.origin)
    if not hasattr(library, "ms_supported") or not library.ms_supported():
        return None  # other compilers build a module without kernels
    signatures = {
        "ms_scratch": (ctypes.c_size_t, [POINTER, POINTER, INT]),
        "ms_run": (None, [POINTER, POINTER, INT]),
        "ms_pick_scratch": (ctypes.c_size_t, [POINTER, INT, INT]),
        "ms_causal_scratch": (ctypes.c_size_t, [POINTER, POINTER, INT]),
        "ms_causal_run": (None, [POINTER, POINTER, INT]),
        "ms_causal_pick_scratch": (ctypes.c_size_t, [POINTER, INT, INT]),
        "ms_causal_pick": (None, [POINTER, POINTER, INT, INT, POINTER, POINTER, POINTER, INT]),
        "ms_pick": (None, [POINTER, POINTER, INT, INT, POINTER, POINTER, POINTER, INT]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def wanted() -> bool:
    """Return True if the native kernels are to run.

    Raises `UsageError` for an unknown choice, and where they were asked for and cannot run.
    """
    choice = os.environ.get(CHOICE) or "auto"
    if choice not in CHOICES:
        allowed = ", ".join(CHOICES)
        raise UsageError(f"{CHOICE} is {choice!r}; allowed are {allowed}: set one of them")
    reason = missing()
    if choice == "native" and reason is not None:
        raise UsageError(f"{CHOICE} is native, and {reason}: set it to auto")
    return choice != "onnxruntime" and reason is None


def missing() -> str | None:
    """Return why the native kernels cannot run here; None if they can."""
    if importlib.util.find_spec(MODULE) is None:
        return "the native kernels were not built (they take a C compiler when installing)"
    if kernels() is None:
        return "this CPU has no AVX-512 VNNI, which the native kernels use"
    return None
