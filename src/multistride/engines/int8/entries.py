"""Entries of the cache of int8 graphs: their names, and what one holds. `kept.py` makes them.

The name of an entry is a hash of all it is made of: weights, configuration, tokenizer, the form of
the weights, and the code that builds graphs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from multistride.data.vocab import VOCABULARY_FILES
from multistride.engines.cache import cache_directory
from multistride.engines.int8.buffers import GraphMaker
from multistride.engines.int8.native.library import NATIVE
from multistride.engines.names import WeightForm
from multistride.errors import DataError
from multistride.files import sha256
from multistride.model.directory import CONFIG, INT8_MANIFEST, INT8_NATIVE, INT8_WEIGHTS
from multistride.untrusted import read_object

FORMAT, READ = 5, (4, 5)
"""The format that is written, and those that are read. It is incremented when the graphs change so
that an engine can no longer run older ones, or an older one not these (5: `weight_file.py`)."""


def place_of(directory: Path, digest: str, form: WeightForm) -> Path:
    """Return the place of the graphs of a model directory, whose weights have the SHA-256 `digest`.

    Raises `OSError` where a file of the model is missing.
    """
    return cache_directory() / "int8" / _name(directory, digest, form)


def file_of(name: str) -> str:
    """Return the file of a graph, or of the weights of the native kernels."""
    return INT8_NATIVE if name == NATIVE else f"{name}.onnx"


def graphs_in(files: Iterable[str]) -> dict[str, str]:
    """Return the files of graphs, and of the weights of the native kernels, by name."""
    return {
        NATIVE if file == INT8_NATIVE else Path(file).stem: file
        for file in files
        if file == INT8_NATIVE or file.endswith(".onnx")
    }


def files_of(place: Path) -> dict[str, str] | None:
    """Return the files of an entry, or of an export of this format, with their SHA-256.

    None if there is none, or its manifest is damaged.
    """
    try:
        manifest = read_object(place / INT8_MANIFEST)
        return dict(manifest["files"]) if manifest["format"] == FORMAT else None
    except (DataError, KeyError, TypeError, ValueError):
        return None


def mark_used(place: Path) -> None:
    """Let an entry count as used now: those used least recently make room for others."""
    with suppress(OSError):
        os.utime(place / INT8_MANIFEST)


def checked_graphs(
    place: Path, names: Iterable[str], beside: Sequence[str] = ()
) -> dict[str, GraphMaker] | None:
    """Return the named graphs of an entry or export; None if one has not the right hash.

    So must the files `beside` them.
    """
    files = files_of(place) or {}
    paths = {name: place / file_of(name) for name in names}
    for name in (*(path.name for path in paths.values()), INT8_WEIGHTS, *beside):
        if not is_intact(place / name, files.get(name, "")):
            return None
    return {name: partial(Path, path) for name, path in paths.items()}


def is_intact(path: Path, digest: str) -> bool:
    """Return True if a file has this SHA-256; one that has not changed is read once a process."""
    with suppress(OSError):
        state = path.stat()
        return _digest(path, state.st_ino, state.st_size, state.st_mtime_ns) == digest
    return False


@cache
def _digest(path: Path, *state: int) -> str:
    """Return the SHA-256 of a file in this `state`, which changes when it is written."""
    return sha256(path)


def _name(directory: Path, digest: str, form: WeightForm) -> str:
    """Return the name of a model's entry."""
    files = [sha256(directory / name) for name in (CONFIG, *VOCABULARY_FILES)]
    return hashlib.sha256(json.dumps([digest, form, *files, _code()]).encode()).hexdigest()[:32]


@cache
def _code() -> str:
    """Return the hash of the code that decides what is in a graph: of the engine and the model."""
    package = Path(__file__).parents[2]
    sources = [*package.glob("engines/int8/**/*.py"), *package.glob("model/*.py")]
    digest = hashlib.sha256()
    for path in sorted([*sources, package / "groups.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
