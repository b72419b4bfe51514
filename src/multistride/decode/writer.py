"""The seam between the one decode loop and the ways of decoding: what a writer does in a pass.

Shapes: R rows still running.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from multistride.decode.pick import Picked
from multistride.decode.state import DecodeState
from multistride.decode.step import Memory
from multistride.groups import Slots


class Proposed(NamedTuple):
    """The slots of the next pass, how many tokens each row may write in it, and why so many."""

    slots: Slots
    sizes: int | Int[Tensor, "R"]
    reasons: tuple[str, ...] = ()


N = TypeVar("N", bound=Memory, contravariant=True)


@runtime_checkable
class Writer(Protocol[N]):
    """One way of decoding, for one batch."""

    @property
    def prefix_size(self) -> int | None:
        """Tokens per group in which a prefix is read; None: as many as the first step proposes."""

    def propose(self, state: DecodeState) -> Proposed:
        """Return what the next pass reads and predicts."""

    def pick(self, proposed: Proposed, memory: N) -> Picked:
        """Run the pass; return a token for every place of each row's group."""

    def accept(self, picked: Picked, proposed: Proposed, memory: N) -> Int[Tensor, "R"]:
        """Return how many of the tokens stand, once the memory has forgotten the other slots."""

    def leave(self, stay: Int[Tensor, "R"]) -> None:
        """Keep the given rows."""

    def join(self, other: Any) -> None:
        """Put the rows of another writer of the same plan behind its own."""
