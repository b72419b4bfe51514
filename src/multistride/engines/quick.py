"""Writers for engines that pick tokens themselves, without handing out logits."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.accept import Acceptor
from multistride.decode.choosing.policy import Policy
from multistride.decode.loop import GroupWriter
from multistride.decode.pick import Picked
from multistride.decode.step import M, StepModel
from multistride.decode.writer import Proposed
from multistride.groups import Slots


@runtime_checkable
class PickingEngine(StepModel[M], Protocol[M]):
    """An engine with a way of its own to the most probable tokens."""

    def step_greedy(
        self, slots: Slots, memory: M, size: int
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """Return what greedy decoding picks in the last `size` slots, and its log-probabilities.

        All slots join the memory. Tokens and numbers are those that `step` and the greedy picker
        give, but for rounding.
        """


class PickedGroups(GroupWriter[M]):
    """Greedy groups, picked by the engine where all rows ask for as many tokens."""

    def __init__(
        self, engine: PickingEngine[M], policy: Policy, accept: Acceptor, lookahead: bool
    ) -> None:
        super().__init__(engine, policy, None, accept, lookahead)
        self._engine = engine

    def pick(self, proposed: Proposed, memory: M) -> Picked:
        """Pick a token for every slot of the groups."""
        assert isinstance(proposed.sizes, Tensor)
        widest = int(proposed.sizes.max())
        if int(proposed.sizes.min()) != widest:
            return super().pick(proposed, memory)
        return Picked(*self._engine.step_greedy(proposed.slots, memory, widest))
