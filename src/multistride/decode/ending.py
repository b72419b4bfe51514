"""When a text is over: the one rule of greedy decoding, sampling, exact mode and beam search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Ending = Literal["end", "stop", "limit", "cancelled"]
"""Why a hypothesis is over: it wrote EOS or a stop text, it reached its length limit, or it was
told to stop."""

StopRule = Callable[[list[int], list[int]], int | None]
"""Tokens known and new, to how many of the new ones belong to a sentence that a stop text ends;
None: it goes on."""


def goes_on(known: list[int], new: list[int]) -> int | None:
    """Return None: the stop rule where there is no stop text."""
    return None


@dataclass(frozen=True)
class EndingRule:
    """The end of a text: a token of `ends`, a stop text (`stopped`), or no room left.

    The first of them in the order of the tokens counts, wherever in a group it falls. A token that
    completes a stop text and fills the room ends it as a stop text.
    """

    ends: frozenset[int]
    stopped: StopRule = goes_on

    @classmethod
    def at(cls, *ends: int) -> EndingRule:
        """Return the rule of texts that end at one of these tokens and have no stop text."""
        return cls(frozenset(ends))

    @property
    def reads_text(self) -> bool:
        """True if a stop text may end a text at any token."""
        return self.stopped is not goes_on

    def ending(self, known: list[int], new: list[int], room: int) -> tuple[int, Ending | None]:
        """Return how many of the new tokens belong to the text, and why it is over, if it is.

        `room` is how many more tokens than the known ones the text may have, EOS included.
        """
        count = min(len(new), room)
        ending: Ending | None = None if len(new) < room else "limit"
        if not self.ends.isdisjoint(new):  # seldom true: most groups end no text
            end = next((index for index in range(count) if new[index] in self.ends), None)
            if end is not None:
                count, ending = end + 1, "end"
        if (stop := self.stopped(known, new[:count])) is not None:
            count, ending = stop, "stop"
        return count, ending
