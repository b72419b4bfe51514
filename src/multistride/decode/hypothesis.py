"""Texts while they are written: groups, step by step, and the batch of those not over yet.

Rows are independent: each has its own limit, and leaves the batch when it is over
(`decode.ending`). What the next step reads is the concern of `state.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from multistride.decode.ending import Ending, EndingRule
from multistride.errors import DataError

AS_ASKED = "as asked for"
"""Why a group has the size that was given."""


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
    """Raise `DataError` for scores that are no numbers, or infinite ones: the model overflowed, and
    what it wrote means nothing.
    """
    if not sum(log_probabilities) < math.inf:  # NaN is not less, either
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


class Facts(NamedTuple):
    """Record of a group beside its tokens, kept by each step."""

    group_size: int
    milliseconds: float
    reason: str


class Running:
    """The hypotheses of a batch; `running` are those still in it."""

    def __init__(self, limits: list[int], rule: EndingRule) -> None:
        """`limits[b]` is the most tokens sentence b may have, EOS included (at least 1)."""
        self.hypotheses = [Hypothesis(row, limit) for row, limit in enumerate(limits)]
        self.running = list(self.hypotheses)
        self.step = 0
        self._rule = rule

    @property
    def done(self) -> bool:
        """True once every sentence is over."""
        return all(hypothesis.ending is not None for hypothesis in self.running)

    def commit_even(
        self,
        tokens: list[list[int]],
        scores: list[list[float]],
        milliseconds: float,
        reason: str,
        group_size: int | None = None,
    ) -> list[Hypothesis]:
        """Append whole groups, apply the stop rules, and return the rows written to.

        It is `DecodeState.commit` where all rows stand alike and nobody asks for slots.

        `group_size` is how many were proposed, if not all of them are given.
        """
        running = [hypothesis for hypothesis in self.running if hypothesis.ending is None]
        facts = Facts(group_size or (len(tokens[0]) if tokens else 0), milliseconds, reason)
        for hypothesis, group, values in zip(self.running, tokens, scores, strict=True):
            self._append(hypothesis, group, values, facts)
        self.step += 1
        return running

    def cancel(self, row: int) -> None:
        """Stop sentence `row` before its next step; what it has is kept."""
        if self.hypotheses[row].ending is None:
            self.hypotheses[row].ending = "cancelled"

    def leave_even(self) -> list[int] | None:
        """Take the rows that are over out of `running`. Returns the places of those that stay, None
        if all do.

        The last rows take the places of those that left, so that a memory has little to move.
        """
        places = [
            place for place, hypothesis in enumerate(self.running) if hypothesis.ending is None
        ]
        if len(places) == len(self.running):
            return None
        further = (place for place in places if place >= len(places))
        places = [
            place if hypothesis.ending is None else next(further)
            for place, hypothesis in enumerate(self.running[: len(places)])
        ]
        self.running = [self.running[place] for place in places]
        return places

    def join_even(self, other: Running) -> None:
        """Put the rows of another batch behind its own, and number rows anew.

        Sentences that are over are dropped. `leave_even` was called for both; the other must not be
        used afterwards.
        """
        for hypothesis in other.running:
            hypothesis.began += self.step - other.step
        self.running = [*self.running, *other.running]
        self.hypotheses = list(self.running)
        for row, hypothesis in enumerate(self.hypotheses):
            hypothesis.row = row

    def _append(
        self, hypothesis: Hypothesis, tokens: list[int], scores: list[float], facts: Facts
    ) -> None:
        if hypothesis.ending is not None:
            return
        check_scores(scores)
        # the whole text is put together only for those who read it: its length grows by the step
        known = hypothesis.tokens if self._rule.reads_text else []
        room = hypothesis.limit - hypothesis.count
        count, hypothesis.ending = self._rule.ending(known, tokens, room)
        hypothesis.count += count
        hypothesis.groups.append(
            Group(
                self.step - hypothesis.began,
                facts.group_size,
                tuple(tokens[:count]),
                tuple(scores[:count]),
                facts.milliseconds,
                facts.reason,
            )
        )
