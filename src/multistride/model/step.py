"""The seam between models and decoding: two methods, which every engine implements.

Shapes: B sentences, S source tokens, N slots, V vocabulary; C clean slots, D drafts, F rows that
are drafted for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.groups import PADDING_GROUP, Slots
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead
from multistride.model.transformer import Transformer


@runtime_checkable
class Memory(Protocol):
    """What an engine keeps of a batch between steps. Only the decoding loop calls these verbs."""

    def truncate(self, counts: Int[Tensor, "B"]) -> None:
        """Forget the last `counts` slots of each row."""

    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        """Keep the given rows, in the given order; a row may be dropped or repeated."""


M = TypeVar("M", bound=Memory)


@runtime_checkable
class StepModel(Protocol[M]):
    """All that decoding needs to know of a model."""

    @property
    def config(self) -> TransformerConfig:
        """The sizes, special tokens and group sizes of the model."""

    @property
    def markov(self) -> MarkovHead | None:
        """What corrects the tokens of a group by each other; None for a model without."""

    def start(self, source: Int[Tensor, "B S"] | None, lengths: Int[Tensor, "B"] | None) -> M:
        """Encode a batch of sources (None: a causal model) and return the memory its steps will
        use.
        """

    def step(self, slots: Slots, memory: M) -> Float[Tensor, "B N V"]:
        """Logits of the new slots, which join the memory."""


@runtime_checkable
class GreedyStepModel(StepModel[M], Protocol[M]):
    """A model with a way of its own to the most probable tokens, cheaper than by logits of the
    whole vocabulary.
    """

    def step_greedy(
        self, slots: Slots, memory: M, size: int
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"]]:
        """The token that greedy decoding picks in each of the last `size` slots, and its
        log-probability.

        All slots join the memory. Tokens and numbers are those that `step` and the greedy picker
        give, but for rounding.
        """


@runtime_checkable
class EvenStepModel(StepModel[M], Protocol[M]):
    """A model with a quick way through a batch whose rows stand alike: greedy groups, from the
    start of one size.
    """

    def step_even(
        self, tokens: Int[np.ndarray, "B K"], memory: M
    ) -> tuple[Int[np.ndarray, "B K"], Float[np.ndarray, "B K"]]:
        """The next group of every row and its log-probabilities, from the last one (start symbols
        at first).

        It is what `step_greedy` gives for the slots of SAT-K. All steps of a memory are of this
        kind and one size.
        """


Draft = Callable[[Int[Tensor, "F"]], Int[Tensor, "F D"]]
"""The rows that drafts are wanted of, to the drafts."""


class Checked(NamedTuple):
    """What greedy decoding picks in the slots of a pass that stand before its masks, and what
    drafts by the masks.

    A row's drafts are chained from the token picked in the last of its clean slots. They are made
    when they are asked for, which must be before the next step.
    """

    tokens: Int[Tensor, "B C"]
    log_probabilities: Float[Tensor, "B C"]
    draft: Draft


@runtime_checkable
class CheckingStepModel(StepModel[M], Protocol[M]):
    """A model with a way of its own through a pass that checks drafts and makes new ones,
    greedily.
    """

    def step_checked(self, slots: Slots, memory: M, masks: int) -> Checked:
        """Pick in every slot but the last `masks`, from which drafts are made.

        All slots join the memory. Tokens and numbers are those that `step` and the greedy pickers
        give, but for rounding; drafts may differ, where an engine does not look at all of a large
        vocabulary.
        """


class Read(NamedTuple):
    """What `Checked` is, for a single sentence and without tensors."""

    tokens: list[int]
    log_probabilities: list[float]
    draft: Callable[[], list[int]]


@runtime_checkable
class SingleStepModel(StepModel[M], Protocol[M]):
    """A model with a quick way through passes that check drafts and make new ones, for one
    sentence.
    """

    def step_single(self, clean: list[int], position: int, masks: int, memory: M) -> Read:
        """Read tokens in clean slots, the first of which predicts `position`, and draft by `masks`
        behind them.

        It is what `step_checked` gives for the slots of `groups.draft_slots`. All steps of a memory
        are of this kind.
        """

    def forget(self, count: int, memory: M) -> None:
        """Forget the last `count` slots of such a memory."""


class UncachedMemory:
    """The oracle's memory: the source, and every slot so far."""

    def __init__(self, source: Tensor | None, lengths: Tensor | None) -> None:
        self.source, self.lengths = source, lengths
        self.slots: Slots | None = None

    def truncate(self, counts: Int[Tensor, "B"]) -> None:
        """Forget the last `counts` slots of each row: they stay, as padding that nobody sees."""
        assert self.slots is not None
        width = self.slots.group.shape[1]
        past = torch.arange(width) >= width - counts[:, None]
        self.slots = self.slots._replace(group=self.slots.group.masked_fill(past, PADDING_GROUP))

    def reorder(self, rows: Int[Tensor, "R"]) -> None:
        """Keep the given rows, in the given order."""
        if self.source is not None and self.lengths is not None:
            self.source, self.lengths = self.source[rows], self.lengths[rows]
        if self.slots is not None:
            self.slots = Slots(*(field[rows] for field in self.slots))


class UncachedStepModel:
    """The oracle: the slow, obvious engine that recomputes everything at every step. For tests."""

    def __init__(self, model: Transformer) -> None:
        self.model = model.eval()

    @property
    def config(self) -> TransformerConfig:
        """The sizes, special tokens and group sizes of the model."""
        return self.model.config

    @property
    def markov(self) -> MarkovHead | None:
        """What corrects the tokens of a group by each other; None for a model without."""
        return self.model.markov

    def start(
        self, source: Int[Tensor, "B S"] | None, lengths: Int[Tensor, "B"] | None
    ) -> UncachedMemory:
        """Remember the source."""
        return UncachedMemory(source, None if source is None else lengths)

    @torch.inference_mode()
    def step(self, slots: Slots, memory: UncachedMemory) -> Float[Tensor, "B N V"]:
        """Logits of the new slots, from one pass over all slots so far."""
        so_far = memory.slots
        memory.slots = slots if so_far is None else Slots(*map(_join, so_far, slots))
        hidden = self.model(memory.source, memory.lengths, memory.slots)
        return self.model.project(hidden[:, -slots.token.shape[1] :])


def _join(before: Tensor, new: Tensor) -> Tensor:
    return torch.cat([before, new], dim=1)
