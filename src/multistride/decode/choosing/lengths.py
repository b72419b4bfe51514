"""Choose the number of copied drafts that a pass checks: those that are worth their slots.

A draft stands with a chance that is learnt while decoding goes on, for each kind of source: long
phrases are right more often than short ones. A slot costs a part of a pass, which is measured as
well. The number of drafts is the one with the most expected tokens a millisecond, and may be 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

SLOT = 0.2
"""Time of a further slot as a share of a pass of one, until it is measured."""

BOUNDS = 0.02, 1.5
"""Least and most that a measured share counts: other programs disturb measurements."""

MEMORY = 0.97
"""What an observation weighs after the next one: texts differ, and change their nature."""

SHARE = 0.1
"""What a new time weighs in a mean."""


@dataclass
class _Source:
    """Drafts of one kind that were checked, and those that stood; older ones weigh less.

    Where the chances of drafts are known, `checked` is how many were expected to stand.
    """

    checked: float = 0.0
    stood: float = 0.0

    @property
    def chance(self) -> float:
        """Return the chance that a draft stands if those before it do; one half if unknown."""
        return (self.stood + 1) / (self.checked + 2)

    @property
    def trust(self) -> float:
        """Return how many drafts stand for each that was expected to; one if unknown."""
        return (self.stood + 2) / (self.checked + 2)


class DraftLengths:
    """The numbers of drafts for one model. Its figures outlive a text."""

    def __init__(self) -> None:
        self._sources: defaultdict[int, _Source] = defaultdict(_Source)
        self._single, self._slot = 0.0, 0.0  # milliseconds of a pass, and of a further slot

    @property
    def slot(self) -> float:
        """The time of a further slot as a share of a pass of one."""
        if not (self._single and self._slot):
            return SLOT
        return min(max(self._slot / self._single, BOUNDS[0]), BOUNDS[1])

    def count(self, source: int, offered: int) -> int:
        """Return how many of the `offered` drafts of a kind of source to check."""
        chance = self._sources[source].chance
        return self._best(source, [chance**number for number in range(1, offered + 1)])

    def worth(self, source: int, chances: list[float]) -> int:
        """Return how many drafts to check, where a source says how likely each is to stand."""
        trust = self._sources[source].trust
        return self._best(source, [min(1.0, trust * chance) for chance in chances])

    def _best(self, source: int, standing: list[float]) -> int:
        """Return how many drafts with these chances bring the most tokens for their time."""
        slot = self.slot
        best, count, tokens = 1.0, 0, 1.0
        for number, chance in enumerate(standing, 1):
            tokens += chance
            if tokens / (1 + slot * number) > best:
                best, count = tokens / (1 + slot * number), number
        if standing and not count:  # a source that is not tried is forgotten, and tried again
            self._add(source, 0.0, 0)
        return count

    def seen(
        self,
        source: int,
        checked: int,
        stood: int,
        milliseconds: float,
        chances: Sequence[float] = (),
    ) -> None:
        """Count a pass that checked drafts of a source, of which `stood` stand: the first, or where
        their `chances` are known, any.
        """
        if checked == 0:
            self._single = _mean(self._single, milliseconds)
            return
        expected = sum(chances) if chances else float(min(stood + 1, checked))
        self._add(source, expected, stood)
        if self._single:
            self._slot = _mean(self._slot, max(milliseconds - self._single, 0.0) / checked)

    def _add(self, source: int, checked: float, stood: int) -> None:
        known = self._sources[source]
        known.checked = MEMORY * known.checked + checked
        known.stood = MEMORY * known.stood + stood


def _mean(mean: float, value: float) -> float:
    """Return a running mean; a value far above it, as other programs cause, counts as twice it."""
    return value if not mean else mean + SHARE * (min(value, 2 * mean) - mean)
