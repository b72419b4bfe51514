"""The endless stream of training batches: the same for the same seed, wherever it is entered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from multistride.data.batch import Batch, Split, collate, token_batches
from multistride.data.vocab import Vocabulary
from multistride.train.checkpoint import Progress


@dataclass
class Piece:
    """One batch, the pairs it is made of (rows of the split), and the generator its layouts are
    drawn from.
    """

    rows: NDArray[np.int64]
    batch: Batch
    generator: torch.Generator


class Feed:
    """Hands out the batches of one update after another and counts them in a `Progress`.

    Of a source longer than `most_read` tokens only so many count, however many it has.
    """

    def __init__(
        self,
        split: Split,
        vocabulary: Vocabulary,
        tokens_per_batch: int,
        seed: int,
        most_read: int | None = None,
    ) -> None:
        self._split, self._vocabulary = split, vocabulary
        self._source_lengths = np.minimum(
            split.source_lengths, most_read or split.source_lengths.max()
        )
        self._budget, self._seed = tokens_per_batch, seed
        self._epoch = -1
        self._batches: list[NDArray[np.int64]] = []

    def take(self, progress: Progress, count: int, share: slice = slice(None)) -> list[Piece]:
        """The next `count` batches, those of `share` made into tensors; `progress` moves past all
        of them.
        """
        places = [self._next(progress) for _ in range(count)]
        return [self._piece(*place) for place in places[share]]

    def batches_in(self, epoch: int) -> list[NDArray[np.int64]]:
        """The rows of every batch of an epoch, in order."""
        if epoch != self._epoch:
            lengths = self._source_lengths, self._split.target_lengths
            self._batches = token_batches(*lengths, self._budget, self._seed, epoch)
            self._epoch = epoch
        return self._batches

    def _next(self, progress: Progress) -> tuple[int, int]:
        if progress.batch == len(self.batches_in(progress.epoch)):
            progress.epoch, progress.batch = progress.epoch + 1, 0
        place = progress.epoch, progress.batch
        progress.batch += 1
        return place

    def _piece(self, epoch: int, index: int) -> Piece:
        rows = self.batches_in(epoch)[index]
        entropy = np.random.SeedSequence([self._seed, epoch, index]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(entropy))
        return Piece(rows, collate(self._split, rows, self._vocabulary), generator)
