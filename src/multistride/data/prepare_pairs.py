"""Parallel text: a source and its target, from files of several kinds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from multistride.data.arrays import SIDES, token_type
from multistride.data.corpus import Pair, Record, Unreadable, read_jsonl, read_parallel, read_table
from multistride.data.prepare import (
    DUPLICATE,
    TOO_LONG,
    Counts,
    PreparationConfig,
    PreparedSplit,
    Reader,
)
from multistride.data.vocab import Vocabulary
from multistride.settings import Settings
from multistride.untrusted import layout

EMPTY_SIDE, LENGTH_RATIO, COPY = "empty side", "length ratio", "copy"
"""Reasons for which pairs alone are lost."""

_CHUNK_PAIRS = 4096


class CorpusFiles(Settings):
    """One corpus: either `source` and `target`, or `pairs`; all may end in .gz or .xz."""

    source: Path | None = Field(default=None, description="source text, one a line")
    target: Path | None = Field(
        default=None, description="target text, line n translating line n of `source`"
    )
    pairs: Path | None = Field(default=None, description="both sides in one .tsv or .jsonl file")
    source_column: int = Field(
        default=0, ge=0, description="column of the source in a .tsv, from 0"
    )
    target_column: int = Field(
        default=1, ge=0, description="column of the target in a .tsv, from 0"
    )
    source_field: str = Field(default="source", description="field of the source in a .jsonl")
    target_field: str = Field(default="target", description="field of the target in a .jsonl")

    @model_validator(mode="after")
    def _one_way(self) -> CorpusFiles:
        both = self.source is not None and self.target is not None
        neither = self.source is None and self.target is None
        if not (both and self.pairs is None) and not (neither and self.pairs is not None):
            raise ValueError("give `source` and `target`, or `pairs` alone")
        if self.pairs is not None and layout(self.pairs) not in (".tsv", ".jsonl"):
            raise ValueError(
                f"`pairs` is {self.pairs}; its name must end in .tsv or .jsonl (then .gz or .xz)"
            )
        if self.source_column == self.target_column:
            raise ValueError(
                f"source and target are both column {self.source_column}: give two columns"
            )
        return self

    def paths(self) -> list[Path]:
        """Return the files read, source first."""
        return [path for path in (self.source, self.target, self.pairs) if path is not None]

    def records(self) -> Iterator[Record]:
        """Return every line, as a pair or as the reason it is none.

        Raises `DataError` for an unreadable file.
        """
        if self.source is not None and self.target is not None:
            return read_parallel(self.source, self.target)
        assert self.pairs is not None
        if layout(self.pairs) == ".tsv":
            return read_table(self.pairs, self.source_column, self.target_column)
        return read_jsonl(self.pairs, self.source_field, self.target_field)


class CleaningConfig(Settings):
    """Rules for dropping pairs. Validation pairs are dropped only if unreadable, empty or too
    long.
    """

    max_tokens: int = Field(
        default=256, ge=1, description="most tokens of either side, without end of sentence"
    )
    max_characters: int = Field(default=5000, ge=1, description="most characters of either side")
    max_length_ratio: float | None = Field(
        default=4.0,
        ge=1,
        description="most tokens of the longer side per token of the shorter; null: any",
    )
    length_ratio_grace: int = Field(
        default=10,
        ge=0,
        description="tokens the longer side may have on top, so that short pairs are not judged",
    )
    drop_duplicates: bool = Field(default=True, description="keep an identical pair once")
    drop_copies: bool = Field(default=False, description="drop a pair whose sides are equal")


class PrepareConfig(PreparationConfig):
    """Settings of the preparation of parallel text."""

    train: tuple[CorpusFiles, ...] = Field(
        min_length=1, description="training corpora, joined in this order"
    )
    validation: tuple[CorpusFiles, ...] = Field(
        default=(), description="validation corpora; none: no such split"
    )
    cleaning: CleaningConfig = Field(
        default_factory=CleaningConfig, description="which pairs are dropped"
    )

    def reader(self) -> Reader:
        """Return what reads the corpora."""
        return PairReader(self)


@dataclass
class _Kept:
    """The pairs of one split that were kept."""

    counts: Counts = field(default_factory=lambda: Counts("pairs"))
    tokens: dict[str, list[NDArray[Any]]] = field(
        default_factory=lambda: {side: [] for side in SIDES}
    )
    lengths: dict[str, list[int]] = field(default_factory=lambda: {side: [] for side in SIDES})


@dataclass(frozen=True)
class PairReader(Reader):
    """Reads parallel corpora."""

    config: PrepareConfig

    def paths(self, split: str) -> list[Path]:
        """Return the files of a split."""
        return [path for files in self._corpora(split) for path in files.paths()]

    def texts(self) -> Iterator[str]:
        """Yield both sides of every training pair that is kept."""
        pairs = _clean_texts(self._records("train"), self.config.cleaning, Counts("pairs"), True)
        return (text for pair in pairs for text in pair)

    def encoded(self, split: str, vocabulary: Vocabulary) -> PreparedSplit:
        """Return the tokens of a split, chunk by chunk."""
        strict, kept, cleaning = split == "train", _Kept(), self.config.cleaning
        pairs = _clean_texts(self._records(split), cleaning, kept.counts, strict)
        while chunk := list(islice(pairs, _CHUNK_PAIRS)):
            _encode_chunk(chunk, vocabulary, cleaning, strict, kept)
        facts = {f"{side}_tokens": sum(kept.lengths[side]) for side in SIDES}
        return PreparedSplit(kept.counts, _arrays(kept, vocabulary), facts)

    def _corpora(self, split: str) -> tuple[CorpusFiles, ...]:
        return self.config.train if split == "train" else self.config.validation

    def _records(self, split: str) -> Iterator[Record]:
        return chain.from_iterable(files.records() for files in self._corpora(split))


def _clean_texts(
    records: Iterable[Record], cleaning: CleaningConfig, counts: Counts, strict: bool
) -> Iterator[Pair]:
    """Yield the pairs that pass what can be judged without tokens, counting the others in
    `counts`.
    """
    seen: set[bytes] = set()
    for record in records:
        counts.read += 1
        if isinstance(record, Unreadable):
            counts.dropped[record.reason] += 1
            continue
        pair = Pair(record.source.strip(), record.target.strip())
        reason = _text_fault(pair, cleaning) or (
            _training_fault(pair, cleaning, seen) if strict else None
        )
        if reason is None:
            yield pair
        else:
            counts.dropped[reason] += 1


def _text_fault(pair: Pair, cleaning: CleaningConfig) -> str | None:
    if not pair.source or not pair.target:
        return EMPTY_SIDE
    if max(len(pair.source), len(pair.target)) > cleaning.max_characters:
        return TOO_LONG
    return None


def _training_fault(pair: Pair, cleaning: CleaningConfig, seen: set[bytes]) -> str | None:
    if cleaning.drop_copies and pair.source == pair.target:
        return COPY
    if cleaning.drop_duplicates:
        # A hash of fixed size instead of the text bounds the memory of a large corpus. The length
        # keeps ("a", "bc") and ("ab", "c") apart.
        text = f"{len(pair.source)} {pair.source}{pair.target}"
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if key in seen:
            return DUPLICATE
        seen.add(key)
    return None


def _token_fault(
    source_length: int, target_length: int, cleaning: CleaningConfig, strict: bool
) -> str | None:
    shorter, longer = sorted((source_length, target_length))
    if shorter == 0:
        return EMPTY_SIDE
    if longer > cleaning.max_tokens:
        return TOO_LONG
    ratio = cleaning.max_length_ratio
    if strict and ratio is not None and longer > ratio * shorter + cleaning.length_ratio_grace:
        return LENGTH_RATIO
    return None


def _encode_chunk(
    chunk: list[Pair],
    vocabulary: Vocabulary,
    cleaning: CleaningConfig,
    strict: bool,
    all_kept: _Kept,
) -> None:
    sources = vocabulary.encode_source([pair.source for pair in chunk])
    targets = vocabulary.encode_target([pair.target for pair in chunk])
    kept: dict[str, list[list[int]]] = {side: [] for side in SIDES}
    for source, target in zip(sources, targets, strict=True):
        reason = _token_fault(len(source), len(target), cleaning, strict)
        if reason is not None:
            all_kept.counts.dropped[reason] += 1
            continue
        kept["source"].append(source)
        kept["target"].append(target)
    all_kept.counts.kept += len(kept["source"])
    for side, texts in kept.items():
        all_kept.tokens[side].append(
            np.fromiter(chain.from_iterable(texts), dtype=token_type(vocabulary))
        )
        all_kept.lengths[side].extend(len(text) for text in texts)


def _arrays(kept: _Kept, vocabulary: Vocabulary) -> dict[tuple[str, str], NDArray[Any]]:
    arrays: dict[tuple[str, str], NDArray[Any]] = {}
    for side in SIDES:
        offsets = np.zeros(kept.counts.kept + 1, dtype=np.int64)
        np.cumsum(kept.lengths[side], out=offsets[1:])
        tokens = np.concatenate([np.empty(0, token_type(vocabulary)), *kept.tokens[side]])
        arrays[side, "tokens"] = tokens.astype(token_type(vocabulary), copy=False)
        arrays[side, "offsets"] = offsets
    return arrays
