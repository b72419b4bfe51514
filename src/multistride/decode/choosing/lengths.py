"""Choose the number of copied drafts that a pass checks: those that are worth their slots.

A draft stands with a chance that is learnt while decoding goes on, for each kind of source: long
phrases are right more often than short ones. A slot costs a part of a pass, which is measured as
well. The number of drafts is the one with the most expected tokens a millisecond, and may be 0.
"""

from __future__ import annotations

from collections import defaultdict
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
    """Drafts of one kind that were checked, and those that stood; older ones weigh less."""

    checked: float = 0.0
    stood: float = 0.0

    @property
    def chance(self) -> float:
        """Return the chance that a draft stands if those before it do; one half if unknown."""
        return (self.stood + 1) / (self.checked + 2)


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
        chance, slot = self._sources[source].chance, self.slot
        best, count, tokens, stands = 1.0, 0, 1.0, 1.0
        for number in range(1, offered + 1):
            stands *= chance
            tokens += stands
            if tokens / (1 + slot * number) > best:
                best, count = tokens / (1 + slot * number), number
        if offered and not count:  # a source that is not tried is forgotten, and tried again
            self._add(source, 0, 0)
        return count

    def seen(self, source: int, checked: int, stood: int, milliseconds: float) -> None:
        """Count a pass that checked drafts of a source, of which the first `stood` stand."""
        if checked == 0:
            self._single = _mean(self._single, milliseconds)
            return
        self._add(source, min(stood + 1, checked), stood)
        if self._single:
            self._slot = _mean(self._slot, max(milliseconds - self._single, 0.0) / checked)

    def _add(self, source: int, checked: int, stood: int) -> None:
        known = self._sources[source]
        known.checked = MEMORY * known.checked + checked
        known.stood = MEMORY * known.stood + stood


def _mean(mean: float, value: float) -> float:
    """Return a running mean; a value far above it, as other programs cause, counts as twice it."""
    return value if not mean else mean + SHARE * (min(value, 2 * mean) - mean)
