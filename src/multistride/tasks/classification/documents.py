"""Documents longer than a model reads at once: windows, in batches, and one result each.

Whatever the length, only the tokens of one document and one batch of windows are held, beside what
each window gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.data.documents import encode_document, spans
from multistride.data.vocab import Vocabulary
from multistride.model.config import ClassifierConfig

SORTED_TOGETHER = 32
"""Batches whose windows are sorted by length, so that little is padded."""


class Window(NamedTuple):
    """Some tokens of the n-th document."""

    document: int
    tokens: Sequence[int]


class Results(NamedTuple):
    """The vectors or scores of windows [R, any], and the document of each [R]."""

    rows: Float[Tensor, "R P"]
    document: Int[Tensor, "R"]


def tokens_of(
    vocabulary: Vocabulary, texts: Iterable[str], shape: ClassifierConfig
) -> Iterator[list[int]]:
    """Return the tokens of each text in turn. Raises `DataError` for one not in UTF-8."""
    return (encode_document(vocabulary, text)[: shape.first_tokens] for text in texts)


def windows_of(documents: Iterable[Sequence[int]], shape: ClassifierConfig) -> Iterator[Window]:
    """Yield the windows of the tokens of documents, one document after the other."""
    for number, tokens in enumerate(documents):
        for span in spans(len(tokens), shape.window, shape.overlap):
            yield Window(number, tokens[span.start : span.stop])


def read_windows(
    windows: Iterable[Window],
    read: Callable[[Int[Tensor, "R S"], Int[Tensor, "R"]], Tensor],
    pad: int,
    together: int,
) -> Results:
    """Return the rows that `read` makes of all windows, padded on the right in batches."""
    rows: list[Tensor] = []
    documents: list[int] = []
    for batch in _batches(windows, together):
        lengths = torch.tensor([len(window.tokens) for window in batch])
        tokens = torch.full((len(batch), int(lengths.max())), pad)
        for row, window in enumerate(batch):
            tokens[row, : len(window.tokens)] = torch.tensor(window.tokens)
        rows.append(read(tokens, lengths))
        documents += [window.document for window in batch]
    return Results(torch.cat(rows), torch.tensor(documents))


def _batches(windows: Iterable[Window], together: int) -> Iterator[list[Window]]:
    iterator = iter(windows)
    while pool := list(islice(iterator, together * SORTED_TOGETHER)):
        pool.sort(key=lambda window: len(window.tokens))
        yield from (pool[begin : begin + together] for begin in range(0, len(pool), together))
