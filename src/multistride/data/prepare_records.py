"""From records with a text and a label to a directory of tokens, for training classifiers.

Documents stay whole, however long; training cuts them into windows. The classes are the labels of
the training records, in order of their names, and are written into the manifest. Everything that is
lost is counted by its reason.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from multistride.data.arrays import LABELLED, TEXT, token_type
from multistride.data.corpus import Unreadable, read_lines, text_fields
from multistride.data.documents import encode_document
from multistride.data.prepare import EMPTY, Counts, PreparationConfig, PreparedSplit, Reader
from multistride.data.vocab import Vocabulary
from multistride.errors import DataError

logger = logging.getLogger(__name__)

NEW_LABEL = "label not seen in training"


class Labelled(NamedTuple):
    """A document and its class."""

    text: str
    label: str


class RecordsPrepareConfig(PreparationConfig):
    """Settings of the preparation of labelled records."""

    train: tuple[Path, ...] = Field(
        min_length=1, description=".jsonl to train on; may end in .gz or .xz"
    )
    validation: tuple[Path, ...] = Field(
        (), description=".jsonl to validate on; none: no such split"
    )
    text_field: str = Field("text", description="field that holds the document")
    label_field: str = Field("label", description="field that holds the name of its class")

    def reader(self) -> Reader:
        """Return what reads the records."""
        return RecordReader(self)


@dataclass
class RecordReader(Reader):
    """Reads documents with labels."""

    kind: ClassVar[str] = LABELLED
    config: RecordsPrepareConfig
    classes: tuple[str, ...] = ()

    def checked(self) -> dict[str, Any]:
        """Return the classes, which are the labels of the training records in order of their names.

        Raises `DataError` if there are not two.
        """
        labels = {record.label for record in self._clean("train", Counts("records"))}
        self.classes = tuple(sorted(labels))
        if len(self.classes) < 2:
            found = (
                f"one class, {self.classes[0]!r}"
                if self.classes
                else "no record with a text and a label"
            )
            raise DataError(
                f"the training data have {found}; a classifier needs two: check the files and the "
                'fields; text and label are texts, so write "1" for 1'
            )
        logger.info("classes: %d", len(self.classes))
        return {"classes": list(self.classes)}

    def paths(self, split: str) -> tuple[Path, ...]:
        """Return the files of a split."""
        return self.config.train if split == "train" else self.config.validation

    def texts(self) -> Iterator[str]:
        """Yield the lines of the training documents."""
        for record in self._clean("train", Counts("records")):
            yield from record.text.splitlines(keepends=True)

    def encoded(self, split: str, vocabulary: Vocabulary) -> PreparedSplit:
        """Return the tokens and labels of a split."""
        counts, indices = Counts("records"), {name: at for at, name in enumerate(self.classes)}
        labels: list[int] = []
        documents = [np.empty(0, dtype=token_type(vocabulary))]
        for record in self._clean(split, counts):
            if record.label not in indices:
                counts.dropped[NEW_LABEL] += 1
                continue
            labels.append(indices[record.label])
            tokens = encode_document(vocabulary, record.text)
            documents.append(np.array(tokens, dtype=token_type(vocabulary)))
        counts.kept = len(labels)
        contents = {
            "tokens": np.concatenate(documents),
            "offsets": np.cumsum([len(document) for document in documents], dtype=np.int64),
            "labels": np.array(labels, dtype=np.int64),
        }
        of_class = Counter(labels)
        facts = {
            "tokens": sum(map(len, documents)),
            "of_class": {name: of_class[at] for name, at in indices.items()},
        }
        arrays = {(TEXT, content): array for content, array in contents.items()}
        return PreparedSplit(counts, arrays, facts)

    def _clean(self, split: str, counts: Counts) -> Iterator[Labelled]:
        """Yield the records of a split that can be used, counting the others."""
        for path in self.paths(split):
            for line in read_lines(path):
                counts.read += 1
                record = _labelled(line, self.config)
                if isinstance(record, Labelled):
                    yield record
                else:
                    counts.dropped[record.reason] += 1


def _labelled(line: bytes, config: RecordsPrepareConfig) -> Labelled | Unreadable:
    texts = text_fields(line, config.text_field, config.label_field)
    if isinstance(texts, Unreadable):
        return texts
    text, label = (text.strip() for text in texts)
    return Labelled(text, label) if text and label else Unreadable(EMPTY)
