"""From documents to windows of tokens, for training causal models.

A document ends in EOS and is cut into windows that fit the model. Every window but the first begins
with the last tokens of the one before: they are read and not predicted again, so that no token is
predicted from nothing. Of what a model wrote after a prompt the prompt is read and the rest
predicted. Both are the same kind of window: some known tokens, then those to predict. Everything
that is lost is counted by its reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from multistride.data.arrays import TEXT, token_type
from multistride.data.corpus import Unreadable
from multistride.data.documents import (
    DocumentKind,
    Written,
    encode_document,
    read_documents,
    read_written,
)
from multistride.data.prepare import (
    DUPLICATE,
    EMPTY,
    TOO_LONG,
    Counts,
    PreparationConfig,
    PreparedSplit,
    Reader,
)
from multistride.data.vocab import Vocabulary
from multistride.settings import Settings

FOREIGN_TOKEN = "token outside the vocabulary"


class TextFiles(Settings):
    """The texts of one split: documents, and continuations that a model wrote.

    All may end in .gz or .xz.
    """

    documents: tuple[Path, ...] = Field((), description="plain text, or .jsonl")
    written: tuple[Path, ...] = Field(
        (), description="token files that `multistride distill` wrote"
    )

    def paths(self) -> tuple[Path, ...]:
        """Return all files."""
        return (*self.documents, *self.written)


class TextPrepareConfig(PreparationConfig):
    """Settings of the preparation of texts without translations."""

    vocabulary_kind: Literal["bpe"] = Field("bpe", description="bpe: any text")
    train: TextFiles = Field(description="texts to train on")
    validation: TextFiles = Field(
        TextFiles(), description="texts to validate on; none: no such split"
    )
    documents: DocumentKind = Field("file", description="what a document is in a plain file")
    field: str = Field("text", description="field of a .jsonl that holds the text")
    window: int = Field(
        256, ge=8, description="most tokens of a window, EOS included: the model's max_positions"
    )
    carry: int | None = Field(
        None,
        ge=0,
        description="tokens a window has of the one before, only to be read; left out: window / 8",
    )
    drop_duplicates: bool = Field(True, description="keep an identical document once")

    @model_validator(mode="after")
    def _consistent(self) -> TextPrepareConfig:
        if self.carried >= self.window:
            raise ValueError(
                f"carry is {self.carry}; it must be smaller than window ({self.window})"
            )
        if not self.train.paths():
            raise ValueError("give a text to train on")
        if not self.train.documents and self.vocabulary_from is None:
            raise ValueError(
                "token files need the vocabulary they were written with: give its directory"
            )
        return self

    @property
    def carried(self) -> int:
        """Return how many tokens a window has of the one before."""
        return self.window // 8 if self.carry is None else self.carry

    def reader(self) -> Reader:
        """Return what reads the texts."""
        return TextReader(self)


@dataclass
class _Windows:
    """The windows of one split, and how many of their first tokens are only read."""

    type: type[np.integer[Any]]
    counts: Counts = field(default_factory=lambda: Counts("texts"))
    windows: list[NDArray[Any]] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    cut: int = 0

    def add(self, tokens: list[int], known: int) -> None:
        """Keep one window."""
        self.windows.append(np.array(tokens, dtype=self.type))
        self.known.append(known)

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says, and note it in the summary."""
        total = sum(map(len, self.windows))
        predicted = total - sum(self.known)
        self.counts.note = f": {len(self.windows)} windows, {predicted} tokens"
        self.counts.note += f"; {self.cut} cut short to fit a window" if self.cut else ""
        facts = {"windows": len(self.windows), "tokens": total, "predicted": predicted}
        return {**facts, "cut": self.cut}


@dataclass(frozen=True)
class TextReader(Reader):
    """Reads documents, and what a model wrote after prompts."""

    kind: ClassVar[str] = TEXT
    config: TextPrepareConfig

    def paths(self, split: str) -> tuple[Path, ...]:
        """Return the files of a split."""
        return self._files(split).paths()

    def texts(self) -> Iterator[str]:
        """Yield the lines of the training documents."""
        for text in self._clean("train", Counts("texts")):
            yield from text.splitlines(keepends=True)

    def encoded(self, split: str, vocabulary: Vocabulary) -> PreparedSplit:
        """Return the windows of a split."""
        config, kept = self.config, _Windows(token_type(vocabulary))
        for document in self._clean(split, kept.counts):
            tokens = encode_document(vocabulary, document)
            kept.counts.kept += 1
            for window, known in windows([*tokens, vocabulary.eos], config.window, config.carried):
                kept.add(window, known)
        for path in self._files(split).written:
            for record in read_written(path):
                kept.counts.read += 1
                _add_written(kept, record, config.window, len(vocabulary))
        facts = kept.facts()
        return PreparedSplit(kept.counts, _arrays(kept), facts)

    def _files(self, split: str) -> TextFiles:
        return self.config.train if split == "train" else self.config.validation

    def _clean(self, split: str, counts: Counts) -> Iterator[str]:
        """Yield the documents of a split that can be used, counting the others."""
        seen: set[bytes] = set()
        for path in self._files(split).documents:
            for document in read_documents(path, self.config.documents, self.config.field):
                counts.read += 1
                if isinstance(document, Unreadable):
                    counts.dropped[document.reason] += 1
                    continue
                key = hashlib.blake2b(document.encode(), digest_size=16).digest()
                if not document:
                    counts.dropped[EMPTY] += 1
                elif self.config.drop_duplicates and split == "train" and key in seen:
                    counts.dropped[DUPLICATE] += 1
                else:
                    seen.add(key)
                    yield document


def windows(tokens: list[int], size: int, carry: int) -> Iterator[tuple[list[int], int]]:
    """Yield windows of at most `size` tokens, each with how many of its tokens the one before had
    too.
    """
    end = known = 0
    while end < len(tokens):
        begin = end - known
        end = min(begin + size, len(tokens))
        yield tokens[begin:end], known
        known = min(carry, end - 1)


def _add_written(
    split: _Windows, record: Written | Unreadable, size: int, vocabulary_size: int
) -> None:
    """Keep what a model wrote, cut to a window, unless the prompt fills it."""
    if isinstance(record, Unreadable):
        split.counts.dropped[record.reason] += 1
        return
    tokens = [*record.prompt, *record.written]
    if not record.written:
        split.counts.dropped[EMPTY] += 1
    elif len(record.prompt) >= size:
        split.counts.dropped[TOO_LONG] += 1
    elif max(tokens) >= vocabulary_size:
        split.counts.dropped[FOREIGN_TOKEN] += 1
    else:
        split.counts.kept += 1
        split.cut += len(tokens) > size
        split.add(tokens[:size], len(record.prompt))


def _arrays(split: _Windows) -> dict[tuple[str, str], NDArray[Any]]:
    offsets = np.zeros(len(split.windows) + 1, dtype=np.int64)
    np.cumsum([len(window) for window in split.windows], out=offsets[1:])
    contents: dict[str, NDArray[Any]] = {
        "tokens": np.concatenate([np.empty(0, split.type), *split.windows]),
        "offsets": offsets,
        "known": np.array(split.known, dtype=np.int64),
    }
    return {(TEXT, content): array for content, array in contents.items()}
