"""From documents to windows of tokens, for training causal models.

A document ends in EOS and is cut into windows that fit the model. Every window but the first begins
with the last tokens of the one before: they are read and not predicted again, so that no token is
predicted from nothing. Of what a model wrote after a prompt the prompt is read and the rest
predicted. Both are the same kind of window: some known tokens, then those to predict. Everything
that is lost is counted by its reason.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from multistride.data.arrays import (
    FORMAT,
    SPLITS,
    TEXT,
    Arrays,
    array_name,
    refuse_foreign,
    token_type,
    write_prepared,
)
from multistride.data.corpus import Unreadable
from multistride.data.documents import DocumentKind, Written, read_documents, read_written
from multistride.data.foreign import load_vocabulary
from multistride.data.prepare import DUPLICATE, TOO_LONG
from multistride.data.vocab import Vocabulary, train_vocabulary
from multistride.errors import DataError
from multistride.files import sha256
from multistride.version import __version__

EMPTY = "empty"
FOREIGN_TOKEN = "token outside the vocabulary"


class TextFiles(BaseModel):
    """The texts of one split: documents, and continuations that a model wrote. All may end in .gz
    or .xz.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: tuple[Path, ...] = Field((), description="plain text, or .jsonl")
    written: tuple[Path, ...] = Field(
        (), description="token files that `multistride distill` wrote"
    )

    def paths(self) -> tuple[Path, ...]:
        """All files."""
        return (*self.documents, *self.written)


class TextPrepareConfig(BaseModel):
    """What `prepare` reads of texts without translations, how it cuts them, and where it writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: Path = Field(
        description="directory to write; an earlier prepared directory there is replaced"
    )
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
    vocabulary_size: int = Field(8000, ge=6, description="most tokens")
    vocabulary_from: Path | None = Field(
        None, description="use the tokenizer of this directory instead"
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
        """Tokens that a window has of the one before."""
        return self.window // 8 if self.carry is None else self.carry

    def files(self, split: str) -> TextFiles:
        """The files of one split."""
        return self.train if split == "train" else self.validation


@dataclass
class _Split:
    """What has been kept and lost of one split so far."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    windows: list[list[int]] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    cut: int = 0

    def add(self, tokens: list[int], known: int) -> None:
        """Keep one window."""
        self.windows.append(tokens)
        self.known.append(known)

    def facts(self) -> dict[str, Any]:
        """The counts."""
        total = sum(map(len, self.windows))
        windows = {
            "windows": len(self.windows),
            "tokens": total,
            "predicted": total - sum(self.known),
        }
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            **windows,
        }

    def summary(self) -> str:
        """The counts in one line."""
        facts = self.facts()
        line = f"{self.read} texts read, {self.kept} kept: {facts['windows']} windows, {facts['predicted']} tokens"
        line += f"; {self.cut} cut short to fit a window" if self.cut else ""
        lost = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        return f"{line}; dropped: {lost}" if lost else line


def prepare_text(
    config: TextPrepareConfig, report: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Write the prepared directory `config.output` and return its manifest.

    `report` gets one line for each thing done. Nothing is written unless everything succeeds.
    Raises `DataError` when a file cannot be read or nothing is left, `UsageError` when
    `config.output` holds something else.
    """
    refuse_foreign(config.output)
    vocabulary = _vocabulary(config, report)
    arrays: Arrays = {}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "kind": TEXT,
        "multistride": __version__,
        "splits": {},
    }
    for name in SPLITS:
        if config.files(name).paths():
            split = _read_split(config, name, vocabulary)
            report(f"{name}: {split.summary()}")
            arrays.update(_arrays(name, split, token_type(vocabulary)))
            files = [
                {"path": str(path), "sha256": sha256(path)} for path in config.files(name).paths()
            ]
            manifest["splits"][name] = {"files": files, **split.facts(), "cut": split.cut}
    manifest["settings"] = config.model_dump(mode="json")
    return write_prepared(config.output, vocabulary, arrays, manifest, report)


def windows(tokens: list[int], size: int, carry: int) -> Iterator[tuple[list[int], int]]:
    """Cut a text into windows of at most `size` tokens; with each, how many of its tokens the one
    before had too.
    """
    end = known = 0
    while end < len(tokens):
        begin = end - known
        end = min(begin + size, len(tokens))
        yield tokens[begin:end], known
        known = min(carry, end - 1)


def _vocabulary(config: TextPrepareConfig, report: Callable[[str], None]) -> Vocabulary:
    if config.vocabulary_from is not None:
        vocabulary = load_vocabulary(config.vocabulary_from)
        report(f"vocabulary: {len(vocabulary)} tokens from {config.vocabulary_from}")
        return vocabulary
    texts = (
        line
        for text in _clean(config, "train", _Split())
        for line in text.splitlines(keepends=True)
    )
    vocabulary = train_vocabulary(texts, config.vocabulary_size, "bpe")
    report(f"vocabulary: {len(vocabulary)} tokens learned")
    return vocabulary


def _clean(config: TextPrepareConfig, name: str, split: _Split) -> Iterator[str]:
    """The documents of a split that can be used, counting the others."""
    seen: set[bytes] = set()
    for path in config.files(name).documents:
        for document in read_documents(path, config.documents, config.field):
            split.read += 1
            if isinstance(document, Unreadable):
                split.dropped[document.reason] += 1
                continue
            key = hashlib.blake2b(document.encode(), digest_size=16).digest()
            if not document:
                split.dropped[EMPTY] += 1
            elif config.drop_duplicates and name == "train" and key in seen:
                split.dropped[DUPLICATE] += 1
            else:
                seen.add(key)
                yield document


def _read_split(config: TextPrepareConfig, name: str, vocabulary: Vocabulary) -> _Split:
    split = _Split()
    for document in _clean(config, name, split):
        [tokens] = vocabulary.encode_source([document])
        split.kept += 1
        for window, known in windows([*tokens, vocabulary.eos], config.window, config.carried):
            split.add(window, known)
    for path in config.files(name).written:
        for record in read_written(path):
            split.read += 1
            _add_written(split, record, config.window, len(vocabulary))
    if not split.kept:
        paths = ", ".join(map(str, config.files(name).paths()))
        raise DataError(
            f"nothing is left of the {name} data ({paths}): {split.summary()}; check the files"
        )
    return split


def _add_written(
    split: _Split, record: Written | Unreadable, size: int, vocabulary_size: int
) -> None:
    """Keep what a model wrote, cut to a window, unless the prompt fills it."""
    if isinstance(record, Unreadable):
        split.dropped[record.reason] += 1
        return
    tokens = [*record.prompt, *record.written]
    if not record.written:
        split.dropped[EMPTY] += 1
    elif len(record.prompt) >= size:
        split.dropped[TOO_LONG] += 1
    elif max(tokens) >= vocabulary_size:
        split.dropped[FOREIGN_TOKEN] += 1
    else:
        split.kept += 1
        split.cut += len(tokens) > size
        split.add(tokens[:size], len(record.prompt))


def _arrays(name: str, split: _Split, dtype: type[np.generic]) -> Arrays:
    offsets = np.zeros(len(split.windows) + 1, dtype=np.int64)
    np.cumsum([len(window) for window in split.windows], out=offsets[1:])
    tokens = np.fromiter(
        (token for window in split.windows for token in window), dtype=dtype, count=int(offsets[-1])
    )
    known = np.array(split.known, dtype=np.int64)
    contents = {"tokens": tokens, "offsets": offsets, "known": known}
    return {array_name(name, TEXT, content): array for content, array in contents.items()}
