"""Whether exact mode should draft at present: what drafts save, against what they cost.

What exact mode writes is what K=1 writes, with drafts or without. So it may stop drafting wherever
that is faster: where few drafts stand, or where checking them costs nearly as much as writing them
one by one, as in large batches. Both are measured while decoding goes on: milliseconds a pass, and
tokens a pass, with drafts and without, for batches of about as many texts.

Both ways are tried for some passes; then the better one is used, and the other tried again after a
while, ever more seldom while it keeps losing. Texts that leave a batch make it a smaller one.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

TRIED = 12
"""Passes for which a way is tried."""

LARGE = 8
"""Texts of a batch from which drafts are first tried after a while: there they seldom pay."""

UNCOUNTED = 2
"""Passes after a change that are not counted: the first ones draft, or set up memory."""

FIRST, LONGEST = 96, 6144
"""Passes after which the losing way is tried again, at first and at most."""


class _Way:
    """The last passes of one way: with drafts, or without."""

    def __init__(self) -> None:
        self._milliseconds: deque[float] = deque(maxlen=2 * TRIED)
        self._tokens: deque[float] = deque(maxlen=2 * TRIED)

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
    """What is known of batches of about one size."""

    ways: dict[bool, _Way] = field(default_factory=lambda: {True: _Way(), False: _Way()})
    drafting: bool = True
    left: int = TRIED
    """Passes until this way is judged."""
    trying: bool = True
    wait: int = FIRST
    since: int = 0
    """Passes since the way changed."""


class Economy:
    """The decisions for one model and one way of drafting. Its figures outlive a batch."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}
        self._lock = threading.Lock()
        self._said: set[int] = set()

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
            if drafted != size.drafting or size.since <= UNCOUNTED:
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
        other = size.ways[not size.drafting]
        if not size.trying or not other:  # it is time to try the other way
            size.ways[not size.drafting] = _Way()
            self._turn(size, not size.drafting, TRIED, trying=True)
            return
        pays = size.ways[True].cost < size.ways[False].cost
        size.wait = min(2 * size.wait, LONGEST) if pays != size.drafting else FIRST
        if not pays and _bucket(rows) not in self._said:
            self._said.add(_bucket(rows))
            drafted, plain = size.ways[True], size.ways[False]
            logger.info(
                f"exact mode: no drafts for now in batches of {_bucket(rows)}, since they bring "
                f"{drafted.tokens:.2f} tokens a pass at "
                f"{drafted.milliseconds / plain.milliseconds:.2f} times the time"
            )
        self._turn(size, pays, size.wait, trying=False)

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
            left = TRIED if tried else FIRST
            self._sizes[bucket] = _Size(drafting=drafting, trying=tried, left=left)
        return self._sizes[bucket]


def _bucket(rows: int) -> int:
    """Return the power of two at or below a number of rows."""
    return 1 << (max(rows, 1).bit_length() - 1)
