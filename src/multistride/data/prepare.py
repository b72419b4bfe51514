"""From text files to a directory of tokens that training reads without copying.

The training pairs are read twice: once to learn the vocabulary, once to encode, so the text of a
large corpus is never in memory. Every pair that is lost is counted by its reason.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from multistride.data.arrays import (
    FORMAT,
    SIDES,
    SPLITS,
    array_name,
    refuse_foreign,
    token_type,
    write_prepared,
)
from multistride.data.corpus import Pair, Record, Unreadable, read_jsonl, read_parallel, read_table
from multistride.data.foreign import load_vocabulary
from multistride.data.vocab import Vocabulary, VocabularyKind, train_vocabulary
from multistride.errors import DataError
from multistride.files import sha256
from multistride.version import __version__

EMPTY_SIDE = "empty side"
TOO_LONG = "too long"
LENGTH_RATIO = "length ratio"
DUPLICATE = "duplicate"
COPY = "copy"

_CHUNK_PAIRS = 4096


class CorpusFiles(BaseModel):
    """One corpus: either `source` and `target`, or `pairs`; all may end in .gz or .xz."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        if self.pairs is not None and _layout(self.pairs) not in (".tsv", ".jsonl"):
            raise ValueError(
                f"`pairs` is {self.pairs}; its name must end in .tsv or .jsonl (then .gz or .xz)"
            )
        return self

    def paths(self) -> list[Path]:
        """The files read, source first."""
        return [path for path in (self.source, self.target, self.pairs) if path is not None]

    def records(self) -> Iterator[Record]:
        """Every line, as a pair or as the reason it is none. Raises `DataError` for an unreadable
        file.
        """
        if self.source is not None and self.target is not None:
            return read_parallel(self.source, self.target)
        assert self.pairs is not None
        if _layout(self.pairs) == ".tsv":
            return read_table(self.pairs, self.source_column, self.target_column)
        return read_jsonl(self.pairs, self.source_field, self.target_field)


class CleaningConfig(BaseModel):
    """Which pairs are dropped. Validation pairs are dropped only for being unreadable, empty or too
    long.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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


class PrepareConfig(BaseModel):
    """What `prepare` reads, how it cleans, and where it writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: Path = Field(
        description="directory to write; an earlier prepared directory there is replaced"
    )
    train: tuple[CorpusFiles, ...] = Field(
        min_length=1, description="training corpora, joined in this order"
    )
    validation: tuple[CorpusFiles, ...] = Field(
        default=(), description="validation corpora; none: no such split"
    )
    vocabulary_size: int = Field(
        default=8000, ge=6, description="most tokens, of both sides together"
    )
    vocabulary_kind: VocabularyKind = Field(
        default="bpe", description="bpe: any text; words: blank-separated symbols"
    )
    vocabulary_from: Path | None = Field(
        default=None, description="use the tokenizer of this directory instead"
    )
    cleaning: CleaningConfig = Field(
        default_factory=CleaningConfig, description="which pairs are dropped"
    )

    def corpora(self, split: str) -> tuple[CorpusFiles, ...]:
        """The corpora of one split."""
        return self.train if split == "train" else self.validation


@dataclass
class _Split:
    """What has been kept and lost of one split so far."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    tokens: dict[str, list[NDArray[Any]]] = field(
        default_factory=lambda: {side: [] for side in SIDES}
    )
    lengths: dict[str, list[int]] = field(default_factory=lambda: {side: [] for side in SIDES})

    def summary(self) -> str:
        """The counts in one line."""
        line = f"{self.read} pairs read, {self.kept} kept"
        lost = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        return f"{line}; dropped: {lost}" if lost else line


def prepare(
    config: PrepareConfig, report: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Write the prepared directory `config.output` and return its manifest.

    `report` gets one line for each thing done. Nothing is written unless everything succeeds.
    Raises `DataError` when a file cannot be read or no pair is left, and `UsageError` when
    `config.output` holds something else or the vocabulary size is too small.
    """
    refuse_foreign(config.output)
    vocabulary = _vocabulary(config, report)
    arrays: dict[str, NDArray[Any]] = {}
    manifest: dict[str, Any] = {"format": FORMAT, "multistride": __version__, "splits": {}}
    for name in SPLITS:
        if config.corpora(name):
            split = _encode_split(config, name, vocabulary)
            report(f"{name}: {split.summary()}")
            arrays.update(_split_arrays(name, split, token_type(vocabulary)))
            manifest["splits"][name] = _split_manifest(config, name, split)
    manifest["settings"] = config.model_dump(mode="json")
    return write_prepared(config.output, vocabulary, arrays, manifest, report)


def _layout(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in (".gz", ".xz") else path.suffix


def _vocabulary(config: PrepareConfig, report: Callable[[str], None]) -> Vocabulary:
    if config.vocabulary_from is not None:
        vocabulary = load_vocabulary(config.vocabulary_from)
        report(f"vocabulary: {len(vocabulary)} tokens from {config.vocabulary_from}")
        return vocabulary
    pairs = _clean_texts(_records(config.train), config.cleaning, _Split(), strict=True)
    texts = (text for pair in pairs for text in pair)
    vocabulary = train_vocabulary(texts, config.vocabulary_size, config.vocabulary_kind)
    report(f"vocabulary: {len(vocabulary)} tokens learned")
    return vocabulary


def _records(corpora: Iterable[CorpusFiles]) -> Iterator[Record]:
    return chain.from_iterable(files.records() for files in corpora)


def _clean_texts(
    records: Iterable[Record], cleaning: CleaningConfig, split: _Split, strict: bool
) -> Iterator[Pair]:
    """The pairs that pass what can be judged without tokens, counting the others in `split`."""
    seen: set[bytes] = set()
    for record in records:
        split.read += 1
        if isinstance(record, Unreadable):
            split.dropped[record.reason] += 1
            continue
        pair = Pair(record.source.strip(), record.target.strip())
        reason = _text_fault(pair, cleaning) or (
            _training_fault(pair, cleaning, seen) if strict else None
        )
        if reason is None:
            yield pair
        else:
            split.dropped[reason] += 1


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


def _encode_split(config: PrepareConfig, name: str, vocabulary: Vocabulary) -> _Split:
    strict = name == "train"
    split = _Split()
    pairs = _clean_texts(_records(config.corpora(name)), config.cleaning, split, strict)
    while chunk := list(islice(pairs, _CHUNK_PAIRS)):
        _encode_chunk(chunk, vocabulary, config.cleaning, strict, split)
    if split.kept == 0:
        paths = ", ".join(str(path) for files in config.corpora(name) for path in files.paths())
        raise DataError(
            f"nothing is left of the {name} data ({paths}): {split.summary()}; "
            "check the files, or loosen the cleaning settings"
        )
    return split


def _encode_chunk(
    chunk: list[Pair], vocabulary: Vocabulary, cleaning: CleaningConfig, strict: bool, split: _Split
) -> None:
    sources = vocabulary.encode_source([pair.source for pair in chunk])
    targets = vocabulary.encode_target([pair.target for pair in chunk])
    kept: dict[str, list[list[int]]] = {side: [] for side in SIDES}
    for source, target in zip(sources, targets, strict=True):
        reason = _token_fault(len(source), len(target), cleaning, strict)
        if reason is not None:
            split.dropped[reason] += 1
            continue
        kept["source"].append(source)
        kept["target"].append(target)
    split.kept += len(kept["source"])
    for side, texts in kept.items():
        split.tokens[side].append(
            np.fromiter(chain.from_iterable(texts), dtype=token_type(vocabulary))
        )
        split.lengths[side].extend(len(text) for text in texts)


def _split_arrays(name: str, split: _Split, dtype: type[np.generic]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for side in SIDES:
        offsets = np.zeros(split.kept + 1, dtype=np.int64)
        np.cumsum(split.lengths[side], out=offsets[1:])
        arrays[array_name(name, side, "tokens")] = np.concatenate(split.tokens[side]).astype(
            dtype, copy=False
        )
        arrays[array_name(name, side, "offsets")] = offsets
    return arrays


def _split_manifest(config: PrepareConfig, name: str, split: _Split) -> dict[str, Any]:
    paths = [path for files in config.corpora(name) for path in files.paths()]
    return {
        "files": [{"path": str(path), "sha256": sha256(path)} for path in paths],
        "read": split.read,
        "kept": split.kept,
        "dropped": dict(sorted(split.dropped.items())),
        "source_tokens": sum(split.lengths["source"]),
        "target_tokens": sum(split.lengths["target"]),
    }
