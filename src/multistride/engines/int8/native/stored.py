"""The file of a model's weights as the native kernels read them: written once, then mapped."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from multistride.engines.int8.native.library import ALIGNED, PANEL, Arrays
from multistride.errors import DataError
from multistride.model.config import TransformerConfig

Array = NDArray[Any]

Size = tuple[str, tuple[str, tuple[int, ...]]]
"""The name of an array, its kind and its shape."""

DAMAGED = "native.bin is damaged or of another model: export the model again"


def matrix_sizes(name: str, inputs: int, outputs: int) -> Iterator[Size]:
    """Yield the arrays of a matrix with one scale for each output."""
    panels = -(-outputs // PANEL)
    yield f"{name}.weights", ("int8", (panels, inputs // 4, PANEL, 4))
    yield from ((f"{name}.{part}", ("float32", (outputs,))) for part in ("scale", "offset"))


def markov_sizes(config: TransformerConfig) -> Iterator[Size]:
    """Yield the arrays of a Markov head, if the model has one."""
    if config.markov_rank:
        outputs = -(-config.vocabulary_size // PANEL) * PANEL
        yield "markov.previous", ("uint8", (config.vocabulary_size, config.markov_rank))
        yield "markov.previous_scale", ("float32", (config.vocabulary_size,))
        yield from matrix_sizes("markov.following", config.markov_rank, outputs)


def named(name: str, arrays: Arrays) -> Arrays:
    """Return arrays with a name before the own one of each."""
    return {f"{name}.{each}": array for each, array in arrays.items()}


def in_panels(integers: Shaped[np.ndarray, "I O"]) -> Shaped[np.ndarray, "P F 64 4"]:
    """Return integers in panels of 64 outputs, in each the inputs by fours."""
    inputs, outputs = integers.shape
    whole = np.pad(integers, ((0, 0), (0, -outputs % PANEL)))
    parts = whole.reshape(inputs // 4, 4, -1, PANEL)
    return np.ascontiguousarray(parts.transpose(2, 0, 3, 1))


def content_of(arrays: Arrays) -> bytes:
    """Return arrays as a file that `read` maps: a JSON header of its length, then the data."""
    entries, parts, place = dict[str, Any](), list[bytes](), 0
    for name, array in arrays.items():
        content = np.ascontiguousarray(array).tobytes()
        entries[name] = [array.dtype.name, list(array.shape), place]
        parts += [content, bytes(-len(content) % ALIGNED)]
        place += len(content) + -len(content) % ALIGNED
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(8 + len(header)) % ALIGNED)
    return len(header).to_bytes(8, "little") + header + b"".join(parts)


def read(content: bytes | Path) -> Arrays:
    """Return the arrays that `content_of` wrote; those of a file are mapped.

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
