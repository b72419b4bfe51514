"""Random numbers of decoding: a generator for each text, so no text depends on its neighbours.

Shapes: R rows still running, C numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from multistride.decode.state import DecodeState


class Chances:
    """Numbers, uniform in [0, 1), for each running row of a batch.

    Sentence n has a generator of its own, made from `seeds[n]`, so its tokens depend on no
    neighbour.
    """

    def __init__(self, seeds: Sequence[int], state: DecodeState) -> None:
        self.state = state
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, count: int) -> Float[Tensor, "R C"]:
        """Return the next `count` numbers of every running row."""
        rows = [
            torch.rand(count, generator=generator, dtype=torch.float64)
            for generator in self._running()
        ]
        return torch.stack(rows)

    def join(self, other: Chances) -> None:
        """Take over the rows of another batch, before `DecodeState.join` numbers rows anew."""
        self._generators = [*self._running(), *other._running()]

    def _running(self) -> list[torch.Generator]:
        return [self._generators[hypothesis.row] for hypothesis in self.state.running]


def request_seed(seed: int, tokens: Sequence[int]) -> int:
    """A generator's seed that follows from a request's seed and its source alone."""
    return int(
        np.random.SeedSequence([seed, *tokens]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )
