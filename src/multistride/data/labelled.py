"""Documents with classes, as training reads them.

Legend for shapes: N documents of a split, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistride.data.documents import spans


@dataclass(frozen=True, eq=False)
class LabelledDocuments:
    """The N documents of one split, in files mapped into memory.

    Tokens are [total tokens], without end of sentence; offsets [N + 1]; labels [N], places in the
    list of classes.
    """

    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def document(self, row: int) -> NDArray[Any]:
        """Return the tokens of document `row`.

        Raises `IndexError` outside 0 to N-1.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is outside 0 to {len(self) - 1}")
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    @cached_property
    def source_lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens of each document [N]."""
        return np.diff(self.offsets)

    @cached_property
    def target_lengths(self) -> NDArray[np.int64]:
        """One label each [N]."""
        return np.ones(len(self), dtype=np.int64)


def window_sources(
    documents: LabelledDocuments,
    names: Sequence[Sequence[int]],
    size: int,
    overlap: int,
    first: int | None,
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[Any], NDArray[np.int64]]:
    """Return every window of every document with the tokens of its class's name: tokens and offsets
    of both sides.
    """
    windows: list[NDArray[Any]] = []
    targets: list[Sequence[int]] = []
    for row in range(len(documents)):
        document = documents.document(row)[:first]
        cut = [document[span.start : span.stop] for span in spans(len(document), size, overlap)]
        windows += cut
        targets += [names[int(documents.labels[row])]] * len(cut)
    target_tokens = np.fromiter(chain.from_iterable(targets), dtype=np.int64)
    return np.concatenate(windows), _offsets(windows), target_tokens, _offsets(targets)


def _offsets(texts: Sequence[Any]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
