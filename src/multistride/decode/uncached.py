"""The oracle: the slow, obvious engine that recomputes everything at every step. For tests.

Shapes: B sentences, S source tokens, N slots, V vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.groups import PADDING_GROUP, Slots
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead
from multistride.model.transformer import Transformer


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
        """The Markov head, which corrects the tokens of a group by each other; None without."""
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
