"""The text written for one source: its groups, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from multistride.decode.ending import Ending
from multistride.errors import DataError


@dataclass(frozen=True)
class Group:
    """The tokens one step wrote into one sentence: those kept of `group_size` proposed.

    `milliseconds` is the time of the whole step, which all sentences of the batch share; 0 where
    nobody took it. `reason` says why so many were proposed; empty where nobody chose.
    """

    step: int
    group_size: int
    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    milliseconds: float = field(default=0.0, compare=False)
    reason: str = field(default="", compare=False)

    @property
    def confidence(self) -> float:
        """Joint probability of the tokens under the model (0 to 1)."""
        return math.exp(min(0.0, sum(self.log_probabilities)))


def check_scores(log_probabilities: Sequence[float]) -> None:
    """Raise `DataError` for scores that are no numbers: the model overflowed, and what it wrote
    means nothing.
    """
    total = sum(log_probabilities)
    if total != total:  # NaN
        raise DataError(
            "the model wrote scores that are not numbers: its weights are damaged, or too "
            "large for the precision it runs in: copy the model again, or run it in float32"
        )


@dataclass
class Hypothesis:
    """One sentence as it is written: its groups, in order. `tokens` never contains EOS.

    Where a stop text ended it, they go on to the token that completed that text.
    """

    row: int
    limit: int
    groups: list[Group] = field(default_factory=list)
    ending: Ending | None = None
    began: int = 0
    """Steps that its batch had made when it joined."""
    count: int = 0
    """Tokens written step by step (`DecodeState`), EOS included."""

    @property
    def tokens(self) -> list[int]:
        """All tokens before EOS."""
        written = [token for group in self.groups for token in group.tokens]
        return written[:-1] if self.ending == "end" else written

    @property
    def log_probabilities(self) -> list[float]:
        """The log-probability of every token written, EOS included."""
        return [value for group in self.groups for value in group.log_probabilities]

    @property
    def steps(self) -> int:
        """Decoder passes this sentence took part in until it was over."""
        return len(self.groups)
