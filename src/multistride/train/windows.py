"""Windows of documents that a batch is trained on.

Shapes: B documents, R windows, C classes.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.data.batch import Batch
from multistride.data.documents import spans
from multistride.model.config import ClassifierConfig


class WindowPass(NamedTuple):
    """The windows of a batch of documents: `lengths` tokens of a `document` from `begin` on; and
    the classes.
    """

    document: Int[Tensor, "R"]
    begin: Int[Tensor, "R"]
    lengths: Int[Tensor, "R"]
    labels: Int[Tensor, "B"]
    wide_logits: Float[Tensor, "B C"] | None = None
    """Logits that the states of windows are trained beside, in place of those of the model's wide
    path."""

    def to(self, device: torch.device | str) -> WindowPass:
        """Return the pass on another device."""
        wide_logits = None if self.wide_logits is None else self.wide_logits.to(device)
        document, begin, lengths, labels = (field.to(device) for field in self[:4])
        return WindowPass(document, begin, lengths, labels, wide_logits)

    def labelled(self) -> int:
        """The number of documents."""
        return len(self.labels)


class WindowDrawer:
    """Draws which windows of long documents are read; all chance comes from the generator it is
    handed.
    """

    def __init__(self, classifier: ClassifierConfig, most: int) -> None:
        self.classifier, self.most = classifier, most

    @property
    def most_read(self) -> int:
        """Tokens of a document that an update reads at most."""
        return min(self.most * self.classifier.window, self.classifier.first_tokens or sys.maxsize)

    def draw(self, batch: Batch, generator: torch.Generator, progress: float = 1.0) -> WindowPass:
        """At most `most` windows of every document, drawn without repetition; `progress` changes
        nothing.
        """

        def some(count: int) -> list[int]:
            if count <= self.most:
                return list(range(count))
            return sorted(torch.randperm(count, generator=generator)[: self.most].tolist())

        return self._windows(batch, [some(len(windows)) for windows in self._spans(batch)])

    def fixed(self, batch: Batch, group_size: int = 1) -> WindowPass:
        """All windows of every document; there are no groups."""
        return self._windows(batch, [list(range(len(windows))) for windows in self._spans(batch)])

    def _spans(self, batch: Batch) -> list[list[range]]:
        assert batch.source_lengths is not None
        shape = self.classifier
        longest = shape.first_tokens or int(batch.source_lengths.max())
        return [
            spans(min(length, longest), shape.window, shape.overlap)
            for length in batch.source_lengths.tolist()
        ]

    def _windows(self, batch: Batch, chosen: list[list[int]]) -> WindowPass:
        spans = self._spans(batch)
        rows = [(row, spans[row][place]) for row, places in enumerate(chosen) for place in places]
        numbers = [[row, span.start, len(span)] for row, span in rows]
        document, begin, lengths = torch.tensor(numbers).unbind(1)
        return WindowPass(document, begin, lengths, batch.target[:, 0])
