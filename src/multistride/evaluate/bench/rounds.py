"""Turns and rounds: contenders alternate, so that the noise of the machine falls on all alike."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from multistride.data.vocab import Vocabulary
from multistride.decode.options import DecodeOptions
from multistride.evaluate.bench.processes import Worker
from multistride.evaluate.bench.workers.messages import Sentence, Turn
from multistride.model.config import TransformerConfig

logger = logging.getLogger(__name__)

SENTENCES_A_TURN = 8
"""Sentences a contender decodes before the next one has its turn; a larger batch is a turn of its
own.

The first sentence after a change finds the caches cold, as those of a program that runs alone never
are.
"""

Batch = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One contender: a worker told to decode in one way.

    `own` makes a row of the result of it, `baseline` is its name as one (None: it is none); `ours`
    says whether one of our engines decodes.
    """

    worker: Worker
    options: DecodeOptions
    config: TransformerConfig
    vocabulary: Vocabulary
    own: bool = False
    ours: bool = True
    baseline: str | None = None

    @property
    def engine(self) -> str:
        """Return the engine that decodes."""
        return self.worker.ready.engine

    @property
    def autoregressive(self) -> bool:
        """Return whether it is one of our engines at plain K=1."""
        return self.ours and self.options.group_size == 1 and self.options.mode == "fast"


@dataclass(frozen=True)
class Timed:
    """The times and sentences of one contender at one batch size.

    `milliseconds[round][batch]`, and the sentences of the first round by their place.
    """

    entry: Entry
    batches: tuple[Batch, ...]
    milliseconds: tuple[tuple[float, ...], ...]
    sentences: tuple[Sentence, ...]
    peak_mb: float | None


def batches_by_length(lengths: Sequence[int], batch_size: int) -> tuple[Batch, ...]:
    """Return indices in batches of similar length, the shortest first, as `decode_corpus` does."""
    by_length = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
    return tuple(
        tuple(by_length[first : first + batch_size])
        for first in range(0, len(by_length), batch_size)
    )


def turns(batches: Sequence[Batch], sentences: int = SENTENCES_A_TURN) -> list[tuple[Batch, ...]]:
    """Return batches that hold at least `sentences` together; the last turn may hold fewer."""
    found: list[tuple[Batch, ...]] = []
    waiting: list[Batch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= sentences:
            found.append(tuple(waiting))
            waiting = []
    return found + ([tuple(waiting)] if waiting else [])


def time_entries(
    entries: Sequence[Entry],
    lengths: Sequence[int],
    batch_size: int,
    rounds: int,
) -> list[Timed]:
    """Let all entries decode all sentences `rounds` times, in turns, after one warm-up turn each.

    `lengths` are those of the sources, whose places the workers know.
    """
    batches = batches_by_length(lengths, batch_size)
    parts = turns(batches)
    for entry in entries:
        entry.worker.take(Turn(batches=parts[len(parts) // 2], options=entry.options))
    records = [_Record() for _ in entries]
    for turn_of_round in range(rounds):
        logger.info(
            f"batch {batch_size}: round {turn_of_round + 1} of {rounds}, {len(entries)} contenders"
        )
        for record in records:
            record.milliseconds.append([])
        for number, part in enumerate(parts):
            for step in range(len(entries)):
                index = (step + number + turn_of_round) % len(entries)
                records[index].take(entries[index], part)
    return [record.timed(entry, batches) for record, entry in zip(records, entries, strict=True)]


class _Record:
    """The turns of one contender so far."""

    def __init__(self) -> None:
        self.milliseconds: list[list[float]] = []
        self.sentences: dict[int, Sentence] = {}
        self.peak_mb: float | None = None

    def take(self, entry: Entry, part: tuple[Batch, ...]) -> None:
        """Give the contender a turn and write down what it did."""
        answer = entry.worker.take(Turn(batches=part, options=entry.options))
        self.milliseconds[-1].extend(answer.milliseconds)
        places = [place for batch in part for place in batch]
        for place, sentence in zip(places, answer.sentences, strict=True):
            self.sentences.setdefault(place, sentence)
        if answer.peak_mb is not None:
            self.peak_mb = max(answer.peak_mb, self.peak_mb or 0.0)

    def timed(self, entry: Entry, batches: tuple[Batch, ...]) -> Timed:
        """Return all of it."""
        milliseconds = tuple(tuple(each) for each in self.milliseconds)
        sentences = tuple(self.sentences[place] for place in sorted(self.sentences))
        return Timed(entry, batches, milliseconds, sentences, self.peak_mb)
