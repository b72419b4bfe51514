"""From records with a text and a label to a directory of tokens, for training classifiers.

Documents stay whole, however long; training cuts them into windows. The classes are the labels of
the training records, in order of their names, and are written into the manifest. Everything that is
lost is counted by its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from multistride.data.arrays import (
    FORMAT,
    LABELLED,
    SPLITS,
    TEXT,
    Arrays,
    array_name,
    refuse_foreign,
    token_type,
    write_prepared,
)
from multistride.data.corpus import BROKEN_RECORD, INVALID_UTF8, Unreadable, read_lines
from multistride.data.documents import pieces_of
from multistride.data.foreign import load_vocabulary
from multistride.data.vocab import Vocabulary, VocabularyKind, train_vocabulary
from multistride.errors import DataError
from multistride.files import sha256
from multistride.untrusted import parse_json
from multistride.version import __version__

EMPTY = "empty"
NEW_LABEL = "label not seen in training"


class Labelled(NamedTuple):
    """A document and its class."""

    text: str
    label: str


class RecordsPrepareConfig(BaseModel):
    """What `prepare` reads of records with labels, and where it writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: Path = Field(
        description="directory to write; an earlier prepared directory there is replaced"
    )
    train: tuple[Path, ...] = Field(
        min_length=1, description=".jsonl to train on; may end in .gz or .xz"
    )
    validation: tuple[Path, ...] = Field(
        (), description="the same for validation; none: no such split"
    )
    text_field: str = Field("text", description="field that holds the document")
    label_field: str = Field("label", description="field that holds the name of its class")
    vocabulary_size: int = Field(8000, ge=6, description="most tokens")
    vocabulary_kind: VocabularyKind = Field(
        "bpe", description="bpe: any text; words: blank-separated symbols"
    )
    vocabulary_from: Path | None = Field(
        None, description="use the tokenizer of this directory instead"
    )

    def files(self, split: str) -> tuple[Path, ...]:
        """The files of one split."""
        return self.train if split == "train" else self.validation


@dataclass
class _Split:
    """What has been kept and lost of one split so far."""

    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    labels: list[int] = field(default_factory=list)
    documents: list[Any] = field(default_factory=list)

    def summary(self) -> str:
        """The counts in one line."""
        line = f"{self.read} records read, {len(self.labels)} kept"
        lost = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        return f"{line}; dropped: {lost}" if lost else line


def prepare_records(
    config: RecordsPrepareConfig, report: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Write the prepared directory `config.output` and return its manifest.

    `report` gets one line for each thing done. Nothing is written unless everything succeeds.
    Raises `DataError` when a file cannot be read, nothing is left or there are not two classes,
    `UsageError` when `config.output` holds something else.
    """
    refuse_foreign(config.output)
    classes = sorted({record.label for record in _clean(config, "train", _Split())})
    if len(classes) < 2:
        found = f"one class, {classes[0]!r}" if classes else "no record with a text and a label"
        raise DataError(
            f"the training data have {found}; a classifier needs two: check the files and the fields"
        )
    vocabulary = _vocabulary(config, report)
    report(f"classes: {len(classes)}")
    arrays: Arrays = {}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "kind": LABELLED,
        "multistride": __version__,
        "splits": {},
    }
    for name in SPLITS:
        if config.files(name):
            split = _read_split(config, name, vocabulary, classes)
            report(f"{name}: {split.summary()}")
            arrays.update(_arrays(name, split))
            manifest["splits"][name] = _facts(config, name, split, classes)
    manifest |= {"classes": classes, "settings": config.model_dump(mode="json")}
    return write_prepared(config.output, vocabulary, arrays, manifest, report)


def encode_document(vocabulary: Vocabulary, text: str) -> list[int]:
    """The tokens of a document of any length. Raises `DataError` where it cannot be written as
    UTF-8.
    """
    return list(chain.from_iterable(vocabulary.encode([piece])[0] for piece in pieces_of(text)))


def _vocabulary(config: RecordsPrepareConfig, report: Callable[[str], None]) -> Vocabulary:
    if config.vocabulary_from is not None:
        vocabulary = load_vocabulary(config.vocabulary_from)
        report(f"vocabulary: {len(vocabulary)} tokens from {config.vocabulary_from}")
        return vocabulary
    texts = (
        line
        for record in _clean(config, "train", _Split())
        for line in record.text.splitlines(keepends=True)
    )
    vocabulary = train_vocabulary(texts, config.vocabulary_size, config.vocabulary_kind)
    report(f"vocabulary: {len(vocabulary)} tokens learned")
    return vocabulary


def _clean(config: RecordsPrepareConfig, name: str, split: _Split) -> Iterator[Labelled]:
    """The records of a split that can be used, counting the others."""
    for path in config.files(name):
        for line in read_lines(path):
            split.read += 1
            record = _labelled(line, config)
            if isinstance(record, Labelled):
                yield record
            else:
                split.dropped[record.reason] += 1


def _labelled(line: bytes, config: RecordsPrepareConfig) -> Labelled | Unreadable:
    try:
        record = parse_json(line.decode("utf-8"))
        text, label = record[config.text_field], record[config.label_field]
        f"{text}{label}".encode()  # JSON can escape half of a surrogate pair
    except UnicodeError:
        return Unreadable(INVALID_UTF8)
    except (ValueError, TypeError, KeyError, RecursionError):
        return Unreadable(BROKEN_RECORD)
    if not isinstance(text, str) or not isinstance(label, str):
        return Unreadable(BROKEN_RECORD)
    return (
        Labelled(text.strip(), label.strip())
        if text.strip() and label.strip()
        else Unreadable(EMPTY)
    )


def _read_split(
    config: RecordsPrepareConfig, name: str, vocabulary: Vocabulary, classes: list[str]
) -> _Split:
    split, places = _Split(), {label: place for place, label in enumerate(classes)}
    for record in _clean(config, name, split):
        if record.label not in places:
            split.dropped[NEW_LABEL] += 1
            continue
        split.labels.append(places[record.label])
        split.documents.append(
            np.array(encode_document(vocabulary, record.text), dtype=token_type(vocabulary))
        )
    if not split.labels:
        paths = ", ".join(map(str, config.files(name)))
        raise DataError(
            f"nothing is left of the {name} data ({paths}): {split.summary()}; check the files"
        )
    return split


def _facts(
    config: RecordsPrepareConfig, name: str, split: _Split, classes: list[str]
) -> dict[str, Any]:
    counts = Counter(split.labels)
    return {
        "files": [{"path": str(path), "sha256": sha256(path)} for path in config.files(name)],
        "read": split.read,
        "kept": len(split.labels),
        "dropped": dict(sorted(split.dropped.items())),
        "tokens": sum(map(len, split.documents)),
        "of_class": {label: counts[place] for place, label in enumerate(classes)},
    }


def _arrays(name: str, split: _Split) -> Arrays:
    offsets = np.zeros(len(split.labels) + 1, dtype=np.int64)
    np.cumsum([len(document) for document in split.documents], out=offsets[1:])
    contents = {"offsets": offsets, "labels": np.array(split.labels, dtype=np.int64)}
    contents["tokens"] = np.concatenate(split.documents)
    return {array_name(name, TEXT, content): array for content, array in contents.items()}
