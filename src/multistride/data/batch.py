"""From a prepared directory to batches of tensors.

Legend for shapes: B batch, S source tokens, T target tokens, N pairs of a split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from multistride.array_files import read_array
from multistride.data.arrays import FORMAT, MANIFEST_FILE, TEXT, array_name, hash_arrays
from multistride.data.labelled import LabelledDocuments
from multistride.data.vocab import TOKENIZER_FILE, Vocabulary
from multistride.data.vocabulary_files import load_vocabulary
from multistride.errors import DataError, UsageError
from multistride.files import sha256
from multistride.untrusted import read_object

Tokens = Sequence[int] | NDArray[Any]

TokenPair = tuple[Sequence[int], Sequence[int]]
"""Source and target tokens of a sentence, without end of sentence."""

# A pool is sorted by length as a whole: larger pools waste less padding, smaller ones mix better.
_BATCHES_PER_POOL = 100


@dataclass(frozen=True, eq=False)
class PairedTokens:
    """The N pairs of one split, in files mapped into memory.

    Tokens are [total tokens], offsets [N + 1]; neither holds a start or end of sentence.
    """

    source_tokens: NDArray[Any]
    source_offsets: NDArray[np.int64]
    target_tokens: NDArray[Any]
    target_offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.source_offsets) - 1

    def source(self, row: int) -> NDArray[Any]:
        """Return the source tokens of pair `row`, without end of sentence.

        Raises `IndexError` outside 0 to N-1.
        """
        return _text(self.source_tokens, self.source_offsets, row)

    def target(self, row: int) -> NDArray[Any]:
        """Return the target tokens of pair `row`, without end of sentence.

        Raises `IndexError` outside 0 to N-1.
        """
        return _text(self.target_tokens, self.target_offsets, row)

    @cached_property
    def source_lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens of each source [N], with the end of sentence that `collate`
        adds.
        """
        return np.diff(self.source_offsets) + 1

    @cached_property
    def target_lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens of each target [N], with the end of sentence that `collate`
        adds.
        """
        return np.diff(self.target_offsets) + 1


@dataclass(frozen=True, eq=False)
class TextWindows:
    """The N windows of one split of texts without sources, in files mapped into memory.

    Tokens are [total tokens], offsets [N + 1], known [N]: how many tokens of a window are read and
    not predicted.
    """

    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    known: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.known)

    def window(self, row: int) -> NDArray[Any]:
        """Return the tokens of window `row`, with EOS where its text ends.

        Raises `IndexError` outside 0 to N-1.
        """
        return _text(self.tokens, self.offsets, row)

    @cached_property
    def target_lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens of each window [N]."""
        return np.diff(self.offsets)

    @property
    def source_lengths(self) -> NDArray[np.int64]:
        """Return the tokens of each window: there is no other side to be longer."""
        return self.target_lengths


Split = PairedTokens | TextWindows | LabelledDocuments


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A directory written by `prepare`: its vocabulary, and its splits opened when asked for."""

    directory: Path
    vocabulary: Vocabulary
    manifest: dict[str, Any]

    @classmethod
    def load(cls, directory: Path | str) -> PreparedData:
        """Open a prepared directory.

        Raises `DataError` when it is none, is of another format, or its tokenizer was exchanged.
        """
        directory = Path(directory)
        manifest = _read_manifest(directory)
        vocabulary = load_vocabulary(directory)
        if sha256(directory / TOKENIZER_FILE) != manifest["vocabulary"]["sha256"]:
            raise DataError(
                f"{directory / TOKENIZER_FILE} is not the one the data was prepared with: prepare "
                "the data again"
            )
        return cls(directory, vocabulary, manifest)

    @property
    def data_hash(self) -> str:
        """SHA-256 over all arrays, as `prepare` wrote it."""
        return str(self.manifest["data_hash"])

    def verify(self) -> None:
        """Raise `DataError` unless every array is the one that `prepare` wrote."""
        paths = sorted(self.directory.glob("*.npy"))
        if hash_arrays({path.name: _map(path) for path in paths}) != self.data_hash:
            raise DataError(
                f"{self.directory} was changed after it was prepared (its arrays have another hash "
                f"than {MANIFEST_FILE} says): prepare the data again"
            )

    @property
    def causal(self) -> bool:
        """Return whether these are texts without sources, for a decoder-only model."""
        return self.manifest.get("kind") == TEXT

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes of labelled documents, in the order of their places; () for other
        data.
        """
        return tuple(self.manifest.get("classes", ()))

    def split(self, name: str) -> Split:
        """Return the pairs, windows or documents of split `name`.

        Raises `DataError` if there is none or it is damaged.
        """
        if name not in self.manifest["splits"]:
            available = ", ".join(self.manifest["splits"])
            raise DataError(
                f"{self.directory} has no {name} split, it has {available}: prepare it again "
                f"with --{name}-... options"
            )
        if self.classes:
            return self._documents(name)
        return self._windows(name) if self.causal else self._pairs(name)

    def pairs(self, name: str) -> PairedTokens:
        """Return the pairs of split `name`.

        Raises `DataError` also where the data are texts without sources.
        """
        split = self.split(name)
        if not isinstance(split, PairedTokens):
            raise DataError(
                f"{self.directory} holds texts without translations: prepare pairs instead"
            )
        return split

    def _documents(self, name: str) -> LabelledDocuments:
        labels = _map(self.directory / array_name(name, TEXT, "labels"))
        split = LabelledDocuments(*_side(self.directory, name, TEXT), labels)
        fits = len(split) == len(split.offsets) - 1 == self.manifest["splits"][name].get("kept")
        if not fits or not ((labels >= 0) & (labels < len(self.classes))).all():
            raise DataError(
                f"{self.directory}: the {name} arrays do not fit each other: prepare the data again"
            )
        return split

    def _windows(self, name: str) -> TextWindows:
        known = _map(self.directory / array_name(name, TEXT, "known"))
        split = TextWindows(*_side(self.directory, name, TEXT), known)
        if not len(split) == len(split.offsets) - 1 == self.manifest["splits"][name].get("windows"):
            raise DataError(
                f"{self.directory}: the {name} arrays do not fit each other: prepare the data again"
            )
        if (known < 0).any() or (known >= split.target_lengths).any():
            raise DataError(
                f"{self.directory}: a {name} window has nothing to predict: prepare the data again"
            )
        return split

    def _pairs(self, name: str) -> PairedTokens:
        split = PairedTokens(
            *_side(self.directory, name, "source"), *_side(self.directory, name, "target")
        )
        expected = self.manifest["splits"][name].get("kept")
        if not len(split) == len(split.target_offsets) - 1 == expected:
            raise DataError(
                f"{self.directory}: the {name} split has {len(split)} sources and "
                f"{len(split.target_offsets) - 1} targets instead of {expected} each: prepare the "
                "data again"
            )
        return split


@dataclass(frozen=True, eq=False)
class Batch:
    """Some pairs as tensors of int64, padded on the right; each side ends in end of sentence.

    source [B, S], source_lengths [B], target [B, T], target_lengths [B]; lengths include that end.
    A batch of windows has no source (None) but `known` [B], how many of the first target tokens are
    only read, and only texts that end in their window have EOS. Documents with classes have no EOS,
    and their target [B, 1] is the class.
    """

    source: torch.Tensor | None
    source_lengths: torch.Tensor | None
    target: torch.Tensor
    target_lengths: torch.Tensor
    known: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Return this batch on `device`."""
        there = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(
            self, **{name: value.to(device) for name, value in there.items() if value is not None}
        )


def token_batches(
    source_lengths: NDArray[np.int64],
    target_lengths: NDArray[np.int64],
    tokens_per_batch: int,
    seed: int | None,
    epoch: int,
) -> list[NDArray[np.int64]]:
    """Divide N pairs into batches of similar length; every row index is in exactly one [B].

    B x the longest side of the batch is at most `tokens_per_batch`; a pair that alone is longer
    gets a batch of its own. The order follows from (`seed`, `epoch`) alone; without a seed it is by
    length. Raises `UsageError` when `tokens_per_batch` is below 1.
    """
    if tokens_per_batch < 1:
        raise UsageError(f"tokens_per_batch is {tokens_per_batch}; it must be at least 1")
    assert len(source_lengths) == len(target_lengths)
    count = len(source_lengths)
    if count == 0:
        return []
    lengths = np.maximum(source_lengths, target_lengths)
    if seed is None:
        return _cut(
            _by_length(np.arange(count), source_lengths, lengths), lengths, tokens_per_batch
        )
    generator = np.random.default_rng([seed, epoch])
    shuffled = generator.permutation(count)
    pool_rows = max(1, int(_BATCHES_PER_POOL * tokens_per_batch / lengths.mean()))
    batches: list[NDArray[np.int64]] = []
    for start in range(0, count, pool_rows):
        pool = _by_length(shuffled[start : start + pool_rows], source_lengths, lengths)
        batches.extend(_cut(pool, lengths, tokens_per_batch))
    return [batches[place] for place in generator.permutation(len(batches))]


def collate(split: Split, rows: Sequence[int] | NDArray[np.int64], vocabulary: Vocabulary) -> Batch:
    """Return the pairs or windows `rows` [B] of `split` as one batch; appends end of sentence to
    both sides of pairs.

    Raises `IndexError` for a row outside the split.
    """
    if isinstance(split, TextWindows):
        texts = [split.window(int(row)) for row in rows]
        known = torch.from_numpy(split.known[np.asarray(rows)].astype(np.int64))
        return Batch(None, None, *_padded(texts, vocabulary.pad), known)
    if isinstance(split, LabelledDocuments):
        documents = _padded([split.document(int(row)) for row in rows], vocabulary.pad)
        return Batch(*documents, *_padded([split.labels[[row]] for row in rows], vocabulary.pad))
    special = vocabulary.pad, vocabulary.eos
    return Batch(
        *_gathered(split.source_tokens, split.source_offsets, rows, *special),
        *_gathered(split.target_tokens, split.target_offsets, rows, *special),
    )


def batches_of(
    pairs: Sequence[TokenPair], pad: int, end: int, tokens_per_batch: int
) -> Iterator[tuple[list[int], Batch]]:
    """Token pairs in batches of similar length, `end` appended to both sides, each with the places
    of its pairs.
    """
    lengths = [np.array([len(pair[side]) + 1 for pair in pairs], dtype=np.int64) for side in (0, 1)]
    for rows in token_batches(lengths[0], lengths[1], tokens_per_batch, seed=None, epoch=0):
        places = [int(row) for row in rows]
        sides = [[pairs[place][side] for place in places] for side in (0, 1)]
        yield places, Batch(*_padded(sides[0], pad, end), *_padded(sides[1], pad, end))


def continuations_of(
    pairs: Sequence[TokenPair], pad: int, tokens_per_batch: int
) -> Iterator[tuple[list[int], Batch]]:
    """Prompts and what follows them as windows, in batches of similar length, each with the places
    of its pairs.
    """
    lengths = np.array([len(prompt) + len(text) for prompt, text in pairs], dtype=np.int64)
    for rows in token_batches(lengths, lengths, tokens_per_batch, seed=None, epoch=0):
        places = [int(row) for row in rows]
        known = torch.tensor([len(pairs[place][0]) for place in places], dtype=torch.long)
        texts = [[*pairs[place][0], *pairs[place][1]] for place in places]
        yield places, Batch(None, None, *_padded(texts, pad), known)


def _text(tokens: NDArray[Any], offsets: NDArray[np.int64], row: int) -> NDArray[Any]:
    if not 0 <= row < len(offsets) - 1:
        raise IndexError(f"row {row} is outside 0 to {len(offsets) - 2}")
    return tokens[offsets[row] : offsets[row + 1]]


def _by_length(
    rows: NDArray[np.int64], source_lengths: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return `rows` by their longer side, then by source; equals keep their order, which was
    shuffled.
    """
    return rows[np.lexsort((source_lengths[rows], lengths[rows]))]


def _cut(
    rows: NDArray[np.int64], lengths: NDArray[np.int64], budget: int
) -> list[NDArray[np.int64]]:
    """Cut rows of ascending length where one more would exceed the budget."""
    batches = []
    start = 0
    for place, length in enumerate(lengths[rows].tolist()):
        if place > start and (place - start + 1) * length > budget:
            batches.append(rows[start:place])
            start = place
    batches.append(rows[start:])
    return batches


def _gathered(
    tokens: NDArray[Any],
    offsets: NDArray[np.int64],
    rows: Sequence[int] | NDArray[np.int64],
    pad: int,
    end: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `_padded` makes of the texts `rows` [B], without a step for each of them."""
    chosen = np.asarray(rows, dtype=np.int64)
    if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(offsets) - 1):
        raise IndexError(f"a row is outside 0 to {len(offsets) - 2}")
    begin = offsets[chosen]
    lengths = offsets[chosen + 1] - begin
    columns = np.arange(lengths.max(initial=0) + 1)
    real = columns < lengths[:, None]
    table = np.full(real.shape, pad, dtype=np.int64)
    table[real] = tokens[(begin[:, None] + columns)[real]]
    table[np.arange(len(chosen)), lengths] = end
    return torch.from_numpy(table), torch.from_numpy(lengths + 1)


def _padded(
    texts: Sequence[Tokens], pad: int, end: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens [B, longest (+ 1)] and lengths [B] of `texts`, with end of sentence if there is
    one to add.
    """
    lengths = np.array([len(text) + (end is not None) for text in texts], dtype=np.int64)
    tokens = np.full((len(texts), lengths.max(initial=0)), pad, dtype=np.int64)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = text
        if end is not None:
            tokens[row, len(text)] = end
    return torch.from_numpy(tokens), torch.from_numpy(lengths)


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST_FILE
    try:
        manifest = read_object(path)
        known = manifest["format"] == FORMAT
        _ = manifest["data_hash"], manifest["vocabulary"]["sha256"]
        if not all(isinstance(facts, dict) for facts in manifest["splits"].values()):
            raise TypeError
        classes = manifest.get("classes", [])
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise TypeError
    except (DataError, KeyError, TypeError, AttributeError) as error:
        reason = "it cannot be read" if path.is_file() else "it is missing"
        raise DataError(
            f"{directory} is no prepared directory: it needs {MANIFEST_FILE}, but {reason}; "
            "write one with `multistride prepare`"
        ) from error
    if not known:
        raise DataError(
            f"{path} has format {manifest['format']}, this version reads {FORMAT}: prepare the "
            "data again"
        )
    return manifest


def _side(directory: Path, split: str, side: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the tokens and offsets of one side of a split."""
    tokens = _map(directory / array_name(split, side, "tokens"))
    offsets = _map(directory / array_name(split, side, "offsets"))
    if offsets.ndim != 1 or offsets.dtype != np.int64 or len(offsets) < 2 or tokens.ndim != 1:
        raise DataError(
            f"{directory}: the {split} {side} arrays have a wrong shape: prepare the data again"
        )
    if offsets[0] != 0 or offsets[-1] != len(tokens) or (np.diff(offsets) < 0).any():
        raise DataError(
            f"{directory}: the {split} {side} offsets do not fit the tokens: prepare the data again"
        )
    return tokens, offsets


def _map(path: Path) -> NDArray[Any]:
    return read_array(path, "prepare the data again", mapped=True)
