"""Exact mode that drafts only where that pays (`choosing.economy`).

Shapes: R rows still running.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Generic

from jaxtyping import Int
from torch import Tensor

from multistride.decode.choosing.economy import Economy
from multistride.decode.exact import Drafter
from multistride.decode.hypothesis import Hypothesis
from multistride.decode.pick import Picked
from multistride.decode.state import DecodeState
from multistride.decode.step import M
from multistride.decode.writer import Proposed, Writer


class ThriftyDrafter(Generic[M]):
    """A drafter that pauses while K=1 is faster; the text is the same either way."""

    def __init__(self, drafter: Drafter[M], economy: Economy) -> None:
        self._drafter, self._economy = drafter, economy
        self._drafts, self._began = True, 0.0

    @property
    def prefix_size(self) -> int | None:
        """As the drafter reads a prefix."""
        return self._drafter.prefix_size

    def propose(self, state: DecodeState) -> Proposed:
        """Return the drafts to check, or K=1's slot alone."""
        self._began = time.perf_counter()
        self._drafts = self._economy.drafts(len(state.running))
        self._drafter.pause(not self._drafts)
        return self._drafter.propose(state)

    def pick(self, proposed: Proposed, memory: M) -> Picked:
        """Pick what K=1 writes after the known tokens and after each draft."""
        return self._drafter.pick(proposed, memory)

    def accept(self, picked: Picked, proposed: Proposed, memory: M) -> Int[Tensor, "R"]:
        """Return how many tokens stand, and count what the pass cost."""
        kept = self._drafter.accept(picked, proposed, memory)
        milliseconds = 1000 * (time.perf_counter() - self._began)
        self._economy.seen(len(kept), self._drafts, float(kept.sum()) / len(kept), milliseconds)
        return kept

    def leave(self, stay: Int[Tensor, "R"]) -> None:
        """Keep the given rows."""
        self._drafter.leave(stay)

    def join(self, other: Any) -> None:
        """Put the rows of another writer of the same plan behind its own."""
        self._drafter.join(other._drafter)


def thrifty(drafter: Drafter[M], economy: Economy | None) -> Writer[M]:
    """Return what writes by a drafter, and drafts only where `economy` says so."""
    return drafter if economy is None else ThriftyDrafter(drafter, economy)


Counter = Callable[[Iterator[list[Hypothesis]], DecodeState], Iterator[list[Hypothesis]]]
"""Passes of a batch and its state, to the same passes, counted."""


def waiting(economy: Economy) -> Counter:
    """Return what counts the passes of a text at K=1: drafts are tried again after a while."""

    def count(passes: Iterator[list[Hypothesis]], state: DecodeState) -> Iterator[list[Hypothesis]]:
        number = 0
        try:
            for written in passes:
                number += 1
                yield written
        finally:
            economy.waited(1, number)

    return count


def timing(economy: Economy, drafted: bool) -> Counter:
    """Return what times a batch, with drafts or without; one that is cancelled does not count."""

    def count(passes: Iterator[list[Hypothesis]], state: DecodeState) -> Iterator[list[Hypothesis]]:
        seconds, rows = 0.0, len(state.hypotheses)
        while True:
            began = time.perf_counter()
            written = next(passes, None)
            seconds += time.perf_counter() - began
            if written is None:
                break
            yield written
        tokens = sum(len(each.log_probabilities) for each in state.hypotheses)
        if tokens:
            economy.seen(rows, drafted, tokens / rows, 1000 * seconds)

    return count
