"""Prepare data: from files to a directory of tokens that training reads without copying.

One frame for all kinds of data. A kind is a configuration whose `reader` reads its files: parallel
text (`prepare_pairs`), texts (`prepare_text`) or documents with labels (`prepare_records`). The
training files are read twice, once to learn the vocabulary and once to encode, so the text of a
large corpus is never in memory. Everything that is lost is counted by its reason.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from multistride.data.arrays import (
    FORMAT,
    MANIFEST_FILE,
    SPLITS,
    Arrays,
    array_name,
    hash_arrays,
)
from multistride.data.corpus import check_text
from multistride.data.vocab import TOKENIZER_FILE, Vocabulary, VocabularyKind, train_vocabulary
from multistride.data.vocabulary_files import load_vocabulary, save_vocabulary
from multistride.errors import DataError
from multistride.files import (
    refuse_foreign,
    refuse_inputs,
    refuse_streams,
    replacing_directory,
    sha256,
    write_json,
)
from multistride.settings import Settings
from multistride.shipped import directory as find_directory
from multistride.version import __version__

logger = logging.getLogger(__name__)

DUPLICATE, EMPTY, TOO_LONG = "duplicate", "empty", "too long"
"""Reasons for which more than one kind loses something."""


@dataclass
class Counts:
    """Texts of one split read, kept and dropped so far."""

    things: str
    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    note: str = ""

    def summary(self) -> str:
        """Return the counts in one line."""
        line = f"{self.read} {self.things} read, {self.kept} kept{self.note}"
        lost = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        return f"{line}; dropped: {lost}" if lost else line


@dataclass
class PreparedSplit:
    """The tokens of one split: `arrays` by side and content, `facts` for the manifest."""

    counts: Counts
    arrays: dict[tuple[str, str], Any]
    facts: dict[str, Any]


class Reader(ABC):
    """Reads the files of one kind of data."""

    kind: ClassVar[str | None] = None
    """What the manifest says of the kind; None for parallel text."""

    @abstractmethod
    def paths(self, split: str) -> Sequence[Path]:
        """Return the files of a split; none where there is no such split."""

    @abstractmethod
    def texts(self) -> Iterator[str]:
        """Yield the training texts that a vocabulary is learned from."""

    @abstractmethod
    def encoded(self, split: str, vocabulary: Vocabulary) -> PreparedSplit:
        """Return the tokens of a split."""

    def checked(self) -> dict[str, Any]:
        """Return what the manifest says besides, and raise `DataError` for data of no use."""
        return {}


class PreparationConfig(Settings):
    """Settings that every kind of preparation shares."""

    output: Path = Field(
        description="directory to write; an earlier prepared directory there is replaced"
    )
    vocabulary_size: int = Field(default=8000, ge=6, description="largest number of tokens")
    vocabulary_kind: VocabularyKind = Field(
        default="bpe", description="bpe: any text; words: symbols separated by blanks"
    )
    vocabulary_from: Path | None = Field(
        default=None, description="use the tokenizer of this directory instead"
    )

    def reader(self) -> Reader:
        """Return what reads the files."""
        raise NotImplementedError


def prepare(config: PreparationConfig) -> dict[str, Any]:
    """Write the prepared directory `config.output` and return its manifest.

    Nothing is written unless everything succeeds. Raises `DataError` when a file cannot be read or
    nothing of a split is left, and `UsageError` when `config.output` holds something else or the
    vocabulary is too small.
    """
    refuse_foreign(config.output, "data")
    reader = config.reader()
    inputs = [path for name in SPLITS for path in reader.paths(name)]
    refuse_inputs(config.output, inputs)
    refuse_streams(inputs, "prepare reads its inputs more than once")
    for path in inputs:
        check_text(path)  # what cannot be read is said now, not after the vocabulary is learned
    besides = reader.checked()
    vocabulary = _vocabulary(config, reader)
    arrays: Arrays = {}
    manifest: dict[str, Any] = {"format": FORMAT}
    if reader.kind is not None:
        manifest["kind"] = reader.kind
    manifest |= {"multistride": __version__, "splits": {}}
    for name in SPLITS:
        if paths := reader.paths(name):
            split = reader.encoded(name, vocabulary)
            _check_left(name, paths, split.counts)
            logger.info("%s: %s", name, split.counts.summary())
            for (side, content), array in split.arrays.items():
                arrays[array_name(name, side, content)] = array
            manifest["splits"][name] = {
                "files": [{"path": str(path), "sha256": sha256(path)} for path in paths],
                "read": split.counts.read,
                "kept": split.counts.kept,
                "dropped": dict(sorted(split.counts.dropped.items())),
                **split.facts,
            }
    manifest |= {**besides, "settings": config.model_dump(mode="json")}
    return write_prepared(config.output, vocabulary, arrays, manifest)


def _vocabulary(config: PreparationConfig, reader: Reader) -> Vocabulary:
    if config.vocabulary_from is not None:
        vocabulary = load_vocabulary(find_directory(config.vocabulary_from))
        logger.info("vocabulary: %d tokens from %s", len(vocabulary), config.vocabulary_from)
        return vocabulary
    vocabulary = train_vocabulary(reader.texts(), config.vocabulary_size, config.vocabulary_kind)
    logger.info("vocabulary: %d tokens learned", len(vocabulary))
    return vocabulary


def _check_left(name: str, paths: Sequence[Path], counts: Counts) -> None:
    if counts.kept == 0:
        files = ", ".join(map(str, paths))
        raise DataError(
            f"nothing is left of the {name} data ({files}): {counts.summary()}; "
            "check the files, or loosen the cleaning settings"
        )


def write_prepared(
    output: Path,
    vocabulary: Vocabulary,
    arrays: Arrays,
    manifest: dict[str, Any],
) -> dict[str, Any]:
    """Write vocabulary, arrays and the completed manifest to `output`, all or nothing; return the
    manifest.
    """
    manifest = {**manifest, "data_hash": hash_arrays(arrays)}
    with replacing_directory(output) as directory:
        save_vocabulary(vocabulary, directory)
        manifest["vocabulary"] = {
            "size": len(vocabulary),
            "sha256": sha256(directory / TOKENIZER_FILE),
        }
        for file_name, array in arrays.items():
            np.save(directory / file_name, array, allow_pickle=False)
        write_json(directory / MANIFEST_FILE, manifest)
    return manifest
