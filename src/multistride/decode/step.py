"""The seam between models and decoding: what every engine implements.

An engine has two methods, `start` and `step`. It may have others by which it offers faster ways of
its own, which tests hold to the plain one: `shortcut`, a whole loop for some ways of decoding
(`loop.Loop`), `writer` and `gathering` for the plain loop, and `read`, a `step` without logits, for
prompts.

Shapes: B sentences, S source tokens, N slots, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from multistride.groups import Slots
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead


@runtime_checkable
class Memory(Protocol):
    """State of a batch that an engine keeps between steps. Only `RunningBatch` and its writer call
    these.
    """

    def truncate(self, counts: Int[Tensor, "B"]) -> None:
        """Forget the last `counts` slots of each row."""

    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        """Keep the given rows, in the given order; a row may be dropped or repeated."""


M = TypeVar("M", bound=Memory)


@runtime_checkable
class JoinableMemory(Memory, Protocol):
    """A memory that can take over the rows of another one of its engine."""

    def join(self, other: Any) -> None:
        """Put the rows of another memory behind its own. This one has made a step, the other need
        not have, unless the model is causal.
        """


@runtime_checkable
class StepModel(Protocol[M]):
    """All that decoding needs to know of a model."""

    @property
    def config(self) -> TransformerConfig:
        """The sizes, special tokens and group sizes of the model."""

    @property
    def markov(self) -> MarkovHead | None:
        """The Markov head, which corrects the tokens of a group by each other; None without."""

    def start(self, source: Int[Tensor, "B S"] | None, lengths: Int[Tensor, "B"] | None) -> M:
        """Encode a batch of sources (None: a causal model); return the memory of its steps."""

    def step(self, slots: Slots, memory: M) -> Float[Tensor, "B N V"]:
        """Return the logits of new slots, which join the memory."""


def reading(engine: StepModel[M]) -> Callable[[Slots, M], Any]:
    """Return what reads slots that nobody needs logits of: `read` where an engine has it, else
    `step`.
    """
    read: Callable[[Slots, M], Any] = getattr(engine, "read", engine.step)
    return read


@runtime_checkable
class ShowsStates(StepModel[M], Protocol[M]):
    """An engine that also hands out last states, for draft heads."""

    def step_with_states(
        self, slots: Slots, memory: M
    ) -> tuple[Float[Tensor, "B N V"], Float[Tensor, "B N D"] | None]:
        """Return what `step` returns, and the states that the logits are made of; None where an
        engine has them in no form that a head reads.
        """
