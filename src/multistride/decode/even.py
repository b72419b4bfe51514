"""Whole greedy groups of one size: the shortest loop, without tensors.

Shapes: B sentences, S source tokens, K tokens per group.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from multistride.decode.hypothesis import AS_ASKED, Hypothesis, Running
from multistride.model.config import TransformerConfig


@runtime_checkable
class KeptRows(Protocol):
    """Cached state of a batch whose rows have equally many slots."""

    def keep(self, rows: Int[np.ndarray, "R"]) -> None:
        """Keep the given rows, in the given order."""


M = TypeVar("M", bound=KeptRows)
N = TypeVar("N", bound=KeptRows, contravariant=True)


@runtime_checkable
class EvenSteps(Protocol[N]):
    """An engine that writes whole greedy groups."""

    @property
    def config(self) -> TransformerConfig:
        """The sizes, special tokens and group sizes of the model."""

    def step_even(
        self, tokens: Int[np.ndarray, "B K"], memory: N, beam: int = 1
    ) -> tuple[Int[np.ndarray, "B K"], Float[np.ndarray, "B K"]]:
        """Return the next group of every row and its log-probabilities, from the last one (start
        symbols at first).

        It is what `step_greedy` gives for the slots of SAT-K, or the best group that a `beam`
        finds, where it `searches`. All steps of a memory are of this kind and one size.
        """

    def searches(self, beam: int) -> bool:
        """Return True if the engine itself picks by a beam of groups; one group is no search."""


def decode_even(
    engine: EvenSteps[M], memory: M, state: Running, group_size: int, beam: int = 1
) -> Iterator[list[Hypothesis]]:
    """Write whole groups, greedily or by a beam of groups, until every sentence is over; after each
    step, yield the sentences it wrote into. `memory` holds the encoded sources.
    """
    tokens = np.full((len(state.running), group_size), engine.config.start_token, np.int64)
    while not state.done:
        began = time.perf_counter()
        tokens, log_probabilities = engine.step_even(tokens, memory, beam)
        milliseconds = 1000 * (time.perf_counter() - began)
        yield state.commit_even(tokens.tolist(), log_probabilities.tolist(), milliseconds, AS_ASKED)
        if (places := state.leave_even()) is not None and not state.done:
            stay = np.array(places)
            memory.keep(stay)
            tokens = tokens[stay]
