"""int8 graphs of model directories, kept in the user's cache: made once, then opened by name.

Making them takes the weights in float32, several times the memory of the graphs, and most of the
time of a start. A kept entry is an export whose name is a hash of all it is made of: weights,
configuration, tokenizer, and the code that builds graphs. The entries used least recently make
room for new ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from multistride.data.vocab import VOCABULARY_FILES
from multistride.engines.int8.buffers import GraphMaker
from multistride.engines.int8.entries import (
    file_of,
    files_of,
    graphs_in,
    is_intact,
    mark_used,
    place_of,
)
from multistride.engines.int8.export import markov_of, write_int8
from multistride.engines.names import WeightForm
from multistride.errors import DataError, UserError
from multistride.files import replacing_directory
from multistride.model.config import TransformerConfig
from multistride.model.directory import CONFIG, INT8_MANIFEST, INT8_WEIGHTS, weights_digest
from multistride.model.markov import MarkovHead
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model

MOST = 4 << 30
"""Bytes that all entries take together."""

Builder = Callable[[Transformer], Mapping[str, Callable[[], bytes]]]
"""A model in float32 to the makers of its graphs."""


class Kept(NamedTuple):
    """The parts of the engine, beside the configuration."""

    graphs: Mapping[str, GraphMaker]
    markov: Callable[[], MarkovHead] | None
    weights: Callable[[], Transformer]
    """Loads the weights in float32."""


def kept_graphs(
    directory: Path, config: TransformerConfig, build: Builder, form: WeightForm = "int8"
) -> Kept:
    """Return the graphs of a model directory: those in the cache, else new ones, kept from now on.

    Raises `DataError` for a bad model directory. A cache that cannot be written is done without.
    """
    try:
        digest = weights_digest(directory)
        place = place_of(directory, digest, form)
    except (DataError, OSError):  # a file is missing: reading the model says which
        model, _ = load_model(directory)
        return _held(model, build(model))
    entry = _Entry(directory, digest, build, place)
    return entry.read(config) or entry.made(config)


class _Entry(NamedTuple):
    """A place in the cache, and the model directory that it belongs to."""

    directory: Path
    digest: str
    """The SHA-256 of its weights."""
    build: Builder
    place: Path

    def read(self, config: TransformerConfig) -> Kept | None:
        """Return what is kept; None if there is nothing, or it is damaged."""
        if (files := files_of(self.place)) is None:
            return None
        mark_used(self.place)
        graphs = {
            name: partial(self.graph, name, files[file]) for name, file in graphs_in(files).items()
        }
        return Kept(graphs, markov_of(self.place, config), self.weights)

    def made(self, config: TransformerConfig) -> Kept:
        """Make the graphs, keep them if that is possible, and return them."""
        model, _ = load_model(self.directory)
        graphs = self.build(model)
        with suppress(UserError, OSError):
            with replacing_directory(self.place, [self.directory]) as temporary:
                for name in (CONFIG, *VOCABULARY_FILES):
                    shutil.copyfile(self.directory / name, temporary / name)
                write_int8(temporary, model, graphs, self.digest)
            _make_room(self.place)
        return self.read(config) or _held(model, graphs)

    def graph(self, name: str, digest: str) -> Path | bytes:
        """Return a kept graph, or the graph made again if it was damaged or removed meanwhile."""
        weights = (files_of(self.place) or {}).get(INT8_WEIGHTS, "")
        path = self.place / file_of(name)
        if is_intact(path, digest) and is_intact(self.place / INT8_WEIGHTS, weights):
            return path
        return self.build(self.weights())[name]()

    def weights(self) -> Transformer:
        """Return the weights in float32. Raises `DataError` if they are others by now."""
        if weights_digest(self.directory) != self.digest:
            raise DataError(
                f"{self.directory} has other weights than when it was opened: open it again"
            )
        return load_model(self.directory)[0]


def _held(model: Transformer, graphs: Mapping[str, GraphMaker]) -> Kept:
    """Return what is kept nowhere but in memory."""
    head = model.markov
    return Kept(graphs, None if head is None else lambda: head, lambda: model)


def _make_room(newest: Path) -> None:
    """Remove the entries used least recently while all of them take too much."""
    entries = [place for place in newest.parent.iterdir() if (place / INT8_MANIFEST).is_file()]
    entries.sort(key=lambda place: (place / INT8_MANIFEST).stat().st_mtime, reverse=True)
    total = 0
    for place in entries:
        total += _size(place.iterdir())
        if total > MOST and place != newest:
            shutil.rmtree(place, ignore_errors=True)


def _size(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)
