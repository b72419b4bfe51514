"""Step costs and expected kept tokens: the two sides of the policy `cost-model`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from multistride.decode.hypothesis import Group

PRIOR_GROUPS = 20
"""Groups that what is expected beforehand counts for, against those that were seen."""


class StepCosts(BaseModel):
    """Milliseconds of a step by rows in the batch and tokens proposed, as `engines.timing.profile`
    measures them. Frozen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str
    layout: str
    threads: int
    cpu: str
    table: dict[int, dict[int, float]] = Field(description="rows to group size to milliseconds")

    def milliseconds(self, rows: int, group_size: int) -> float:
        """Return the time of a step of `rows` sentences that proposes `group_size` tokens each."""
        known = sorted(self.table)
        column = [self._of_size(self.table[each], group_size) for each in known]
        if rows > known[-1]:
            return column[-1] * rows / known[-1]
        return float(np.interp(rows, known, column))

    @staticmethod
    def _of_size(row: dict[int, float], group_size: int) -> float:
        sizes = sorted(row)
        return float(np.interp(group_size, sizes, [row[size] for size in sizes]))


class KeptStatistics:
    """Running estimate of the tokens kept of a group, from a prior and from every group since.

    For each place of a group it counts how often its token was kept where the one before was. A
    place that no group reached keeps what was expected, so sizes that are never tried are never
    written off.
    """

    def __init__(self, expected: Sequence[float]) -> None:
        """`expected[p]` is the share of groups in which place p + 2 is kept, of those in which
        place p + 1 is.
        """
        self._kept = [PRIOR_GROUPS * share for share in expected]
        self._seen = [float(PRIOR_GROUPS)] * len(self._kept)

    def learn(self, groups: Sequence[Group]) -> None:
        """Count what was kept of each group."""
        for group in groups:
            for place in range(min(len(group.tokens), group.group_size - 1, len(self._seen))):
                self._seen[place] += 1
                self._kept[place] += len(group.tokens) > place + 1

    def expected(self, group_size: int) -> float:
        """The tokens one may expect to keep of a group, at least 1."""
        shares = [kept / seen for kept, seen in zip(self._kept, self._seen, strict=True)]
        return 1 + float(np.cumprod(shares[: group_size - 1]).sum())
