"""Random numbers of decoding: a generator for each text, so no text depends on its neighbours.

Shapes: R rows still running, C numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.state import DecodeState


class Chances:
    """Numbers, uniform in [0, 1), for each running row of a batch.

    Sentence n has a generator of its own, made from `seeds[n]`, so its tokens depend on no
    neighbour.
    """

    def __init__(self, seeds: Sequence[int], state: DecodeState) -> None:
        self.state = state
        self._numbers = [_Numbers(seed) for seed in seeds]

    def __call__(self, count: int) -> Float[Tensor, "R C"]:
        """Return the next `count` numbers of every running row, and use them up."""
        rows = [numbers.next(count) for numbers in self._running()]
        for numbers in self._running():
            numbers.use(count)
        return torch.stack(rows)

    def ahead(self, count: int) -> Float[Tensor, "R C"]:
        """Return the next `count` numbers of every running row; `use` says how many were used."""
        return torch.stack([numbers.next(count) for numbers in self._running()])

    def use(self, counts: Int[Tensor, "R"]) -> None:
        """Use up the first numbers of every running row, as many as `counts` says for it."""
        for numbers, count in zip(self._running(), counts.tolist(), strict=True):
            numbers.use(count)

    def join(self, other: Chances) -> None:
        """Take over the rows of another batch, before `DecodeState.join` numbers rows anew."""
        self._numbers = [*self._running(), *other._running()]

    def _running(self) -> list[_Numbers]:
        return [self._numbers[hypothesis.row] for hypothesis in self.state.running]


class _Numbers:
    """The numbers of one text; those that were looked at and not used are kept."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._kept = torch.zeros(0, dtype=torch.float64)

    def next(self, count: int) -> Float[Tensor, "C"]:
        """Return the next `count` numbers."""
        if (missing := count - len(self._kept)) > 0:
            drawn = torch.rand(missing, generator=self._generator, dtype=torch.float64)
            self._kept = torch.cat([self._kept, drawn])
        return self._kept[:count]

    def use(self, count: int) -> None:
        """Drop the first `count` numbers."""
        self._kept = self._kept[count:]


def request_seed(seed: int, tokens: Sequence[int]) -> int:
    """A generator's seed that follows from a request's seed and its source alone."""
    return int(
        np.random.SeedSequence([seed, *tokens]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )
