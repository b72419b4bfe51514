"""The decision whether exact mode drafts at present: what drafts save, against what they cost.

What exact mode writes is what K=1 writes, with drafts or without. So it may stop drafting wherever
that is faster: where few drafts stand, or where checking them costs nearly as much as writing them
one by one, as in large batches. Both are measured while decoding goes on: milliseconds a pass, and
tokens a pass, with drafts and without, for batches of about as many texts.

Both ways are tried; then the better one is used, and the other tried again after a while, ever more
seldom while it keeps losing. A single text changes its way between passes. A batch has one way, so
that it goes through the quickest loop there is; what counts is then the time of whole batches.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from multistride.decode.choosing.lengths import DraftLengths

logger = logging.getLogger(__name__)

LARGE = 8
"""Texts of a batch from which drafts are first tried after a while: there they seldom pay."""


class Pace(NamedTuple):
    """When ways are tried, in passes or in batches."""

    tried: int
    """For how long a way is tried."""
    uncounted: int
    """How many are not counted after a change: the first ones draft, or set up memory."""
    first: int
    """When the losing way is tried again, at first."""
    longest: int
    """When the losing way is tried again, at most."""


PASSES, BATCHES = Pace(12, 2, 96, 6144), Pace(2, 0, 8, 512)

CLEARLY = 1.1
"""A way whose tokens take this many times as long loses clearly, and is tried again later."""

LARGE_BATCHES = Pace(1, 0, 32, 512)
"""Drafts lose much in large batches: a trial is short and late, so that it costs little."""


class _Way:
    """The last passes of one way: with drafts, or without."""

    def __init__(self) -> None:
        self._milliseconds: deque[float] = deque(maxlen=24)
        self._tokens: deque[float] = deque(maxlen=24)

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, tokens: float, milliseconds: float) -> None:
        """Count a pass."""
        self._tokens.append(tokens)
        self._milliseconds.append(milliseconds)

    @property
    def tokens(self) -> float:
        """Tokens a pass of each text."""
        return sum(self._tokens) / len(self)

    @property
    def milliseconds(self) -> float:
        """Milliseconds a pass, without the slowest ones: other programs, or memory being set up."""
        usual = sorted(self._milliseconds)[: len(self) - len(self) // 8]
        return sum(usual) / len(usual)

    @property
    def cost(self) -> float:
        """Milliseconds a token of each text."""
        return self.milliseconds / self.tokens


@dataclass
class _Size:
    """Facts about batches of about one size."""

    drafting: bool
    trying: bool
    left: int
    """Passes until this way is judged, or the other one tried."""
    wait: int
    since: int = 0
    """Passes since the way changed."""
    ways: dict[bool, _Way] = field(default_factory=lambda: {True: _Way(), False: _Way()})


class Economy:
    """The decisions for one model and one way of drafting. Its figures outlive a batch."""

    def __init__(self, pace: Pace = PASSES) -> None:
        self._pace = pace
        self._sizes: dict[int, _Size] = {}
        self._lock = threading.Lock()
        self._said: set[tuple[str, int]] = set()
        self.lengths = DraftLengths()
        """Numbers of drafts copied into a single text."""

    @cached_property
    def batches(self) -> Economy:
        """The decisions for whole batches."""
        return Economy(BATCHES)

    def drafts(self, rows: int) -> bool:
        """Return whether the next pass of a batch of `rows` texts should draft."""
        return self._size(rows).drafting

    def settled(self, rows: int) -> bool:
        """Return true while K=1 is the better way: no pass of a new batch needs to draft."""
        size = self._size(rows)
        return not (size.drafting or size.trying) and size.left > 0

    def seen(self, rows: int, drafted: bool, tokens: float, milliseconds: float) -> None:
        """Count a pass that wrote `tokens` a text, and decide anew where it is time for that."""
        with self._lock:
            size = self._size(rows)
            size.since += 1
            if drafted != size.drafting or size.since <= self._pace_of(rows).uncounted:
                return
            size.ways[drafted].add(tokens, milliseconds)
            size.left -= 1
            if size.left <= 0:
                self._decide(rows, size)

    def waited(self, rows: int, passes: int) -> None:
        """Count passes of K=1 that were not timed one by one."""
        with self._lock:
            size = self._size(rows)
            if not size.drafting:
                size.left -= passes
                if size.left <= 0:
                    self._decide(rows, size)

    def _decide(self, rows: int, size: _Size) -> None:
        """Judge a way that was tried, or try the other one again."""
        other, pace = size.ways[not size.drafting], self._pace_of(rows)
        if not size.trying or not other:  # it is time to try the other way
            size.ways[not size.drafting] = _Way()
            self._turn(size, not size.drafting, pace.tried, trying=True)
            return
        pays = size.ways[True].cost < size.ways[False].cost
        lost = pays != size.drafting
        if not lost:
            size.wait = pace.first
        else:
            costs = sorted(way.cost for way in size.ways.values())
            longer = 4 if costs[1] > CLEARLY * costs[0] else 2
            size.wait = min(longer * size.wait, pace.longest)
        if not pays:
            slower = size.ways[True].cost / size.ways[False].cost
            self._say(
                "measured",
                rows,
                f"exact mode: no drafts for now in batches of {_bucket(rows)}, where a token takes "
                f"{slower:.2f} times as long with them",
            )
        self._turn(size, pays, size.wait, trying=False)

    def _say(self, kind: str, rows: int, line: str) -> None:
        """Log a line once for batches of about this size."""
        if (kind, _bucket(rows)) not in self._said:
            self._said.add((kind, _bucket(rows)))
            logger.info(line)

    def _pace_of(self, rows: int) -> Pace:
        return LARGE_BATCHES if self._pace == BATCHES and rows >= LARGE else self._pace

    def _turn(self, size: _Size, drafting: bool, left: int, *, trying: bool) -> None:
        if drafting != size.drafting:
            size.since = 0
        size.drafting, size.left, size.trying = drafting, left, trying

    def _size(self, rows: int) -> _Size:
        """Return what is known of batches of about this size.

        Checking drafts costs the more, the more texts there are. So where drafts lose they lose in
        larger batches, and where they pay they pay in smaller ones: new sizes begin that way.
        """
        bucket = _bucket(rows)
        if bucket not in self._sizes:
            judged = [(at, size) for at, size in self._sizes.items() if not size.trying]
            loses = any(at < bucket and not size.drafting for at, size in judged)
            pays = any(at > bucket and size.drafting for at, size in judged)
            unknown = loses == pays
            tried = unknown and bucket < LARGE
            drafting = pays if not unknown else tried
            pace = self._pace_of(rows)
            left = pace.tried if tried else pace.first
            self._sizes[bucket] = _Size(drafting, tried, left, pace.first)
            if not drafting and self._pace == BATCHES:
                self._say(
                    "begun",
                    rows,
                    f"exact mode: batches of {bucket} are written without drafts, which seldom pay "
                    "there: the texts are the same",
                )
        return self._sizes[bucket]


def _bucket(rows: int) -> int:
    """Return the power of two at or below a number of rows."""
    return 1 << (max(rows, 1).bit_length() - 1)
