"""Mask-predict in the terms of this package: one group of slots, each reading its own place.

Every slot reads the token at the place it predicts, or the mask symbol, and all slots are in one
group, so they see each other. That is a layout like any other: training draws it, and a `Writer`
decodes it through the same loop. Source: Ghazvininejad et al. 2019, arXiv 1904.09324.

The length of a text is where the first pass writes EOS; the paper predicts it from the source.
Shapes: B rows, N slots of the canvas.
"""

from __future__ import annotations

from typing import Any, Generic

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from multistride.data.batch import Batch
from multistride.decode.pick import Picked, greedy
from multistride.decode.state import DecodeState
from multistride.decode.step import M, StepModel
from multistride.decode.writer import Proposed
from multistride.groups import NO_LABEL, PADDING_GROUP, Slots
from multistride.model.config import TransformerConfig
from multistride.train.layouts import LayoutDrawer, TrainingPass

WHOLE = 0.4
"""Share of training sentences that are hidden as a whole, on a canvas of full width."""


def canvas(tokens: Int[Tensor, "B N"], widths: Int[Tensor, "B"]) -> Slots:
    """Return one group of slots that read `tokens` at their own places, `widths` of each row."""
    position = torch.arange(tokens.shape[1]).expand_as(tokens)
    real = position < widths[:, None]
    group = torch.where(real, 0, PADDING_GROUP)
    return Slots(tokens, torch.where(real, position, 0), torch.ones_like(tokens), group)


class MaskedLayouts(LayoutDrawer):
    """Draws the layouts of mask-predict: a random number of tokens is hidden, uniform in 1 … n."""

    def __init__(self, drawer: LayoutDrawer, width: int) -> None:
        """`width` is the canvas of the first pass, the most tokens a text may have."""
        super().__init__(drawer.groups, drawer.model)
        self._width = width

    def draw(self, batch: Batch, generator: torch.Generator, progress: float = 1.0) -> TrainingPass:
        """Return the pass of one batch, some tokens of each sentence hidden."""
        rows, longest = batch.target.shape
        width = max(self._width, longest)
        whole = torch.rand(rows, generator=generator) < WHOLE
        counts = (torch.rand(rows, generator=generator) * batch.target_lengths).long() + 1
        order = torch.rand(rows, width, generator=generator)
        real = torch.arange(width) < batch.target_lengths[:, None]
        ranks = order.masked_fill(~real, 2.0).argsort(1).argsort(1)
        hidden = (ranks < counts[:, None]) | whole[:, None]
        return self._pass(batch, hidden, whole)

    def fixed(self, batch: Batch, group_size: int) -> TrainingPass:
        """Return the pass of the first step of decoding: everything is hidden."""
        rows = len(batch.target_lengths)
        width = max(self._width, batch.target.shape[1])
        return self._pass(
            batch, torch.ones(rows, width, dtype=torch.bool), torch.ones(rows, dtype=torch.bool)
        )

    def _pass(
        self, batch: Batch, hidden: Bool[Tensor, "B N"], whole: Bool[Tensor, "B"]
    ) -> TrainingPass:
        width = hidden.shape[1]
        target = torch.nn.functional.pad(batch.target, (0, width - batch.target.shape[1]))
        real = torch.arange(width) < batch.target_lengths[:, None]
        tokens = torch.where(hidden | ~real, self.model.mask_token, target)
        widths = torch.where(whole, width, batch.target_lengths)
        labels = torch.where(hidden & real, target, NO_LABEL)
        return TrainingPass(canvas(tokens, widths), labels, torch.full_like(labels, NO_LABEL))


class Refiner(Generic[M]):
    """Writes a whole text in one step of the loop: a first pass, then passes that write the least
    certain tokens again (section 3.2 of the paper).
    """

    def __init__(self, engine: StepModel[M], passes: int, width: int) -> None:
        self._engine, self._passes, self._width = engine, passes, width
        self._pick = greedy(engine.config)

    @property
    def prefix_size(self) -> int | None:
        """No prefix is ever read."""
        return None

    def propose(self, state: DecodeState) -> Proposed:
        """Return a canvas of masks."""
        rows = len(state.running)
        masks = torch.full((rows, self._width), self._engine.config.mask_token)
        return Proposed(canvas(masks, torch.full((rows,), self._width)), self._width)

    def pick(self, proposed: Proposed, memory: M) -> Picked:
        """Run all passes; return the tokens of the last one."""
        config = self._engine.config
        tokens, sure = self._pick(self._engine.step(proposed.slots, memory))
        widths = _lengths(tokens, config)
        for step in range(1, self._passes):
            memory.truncate(torch.full((len(tokens),), self._width))
            hidden = _least_certain(sure, widths, 1 - step / self._passes)
            read = torch.where(hidden, config.mask_token, tokens)
            again = self._pick(self._engine.step(canvas(read, widths), memory))
            tokens = torch.where(hidden, again.tokens, tokens)
            sure = torch.where(hidden, again.log_probabilities, sure)
        beyond = torch.arange(self._width) >= widths[:, None] - 1
        return Picked(torch.where(beyond, config.end_token, tokens), sure)

    def accept(self, picked: Picked, proposed: Proposed, memory: M) -> Int[Tensor, "R"]:
        """Return that all tokens stand."""
        return torch.full((len(picked.tokens),), self._width)

    def leave(self, stay: Int[Tensor, "R"]) -> None:
        """Keep the given rows: there is nothing to keep of them."""

    def join(self, other: Any) -> None:
        """Take over the rows of another writer: there is nothing to keep of them."""


def _lengths(tokens: Int[Tensor, "B N"], config: TransformerConfig) -> Int[Tensor, "B"]:
    """Return the tokens of each row up to its first EOS, which counts."""
    ends = tokens == config.end_token
    ends[:, -1] = True
    return ends.int().argmax(1) + 1


def _least_certain(sure: Tensor, widths: Int[Tensor, "B"], share: float) -> Bool[Tensor, "B N"]:
    """Return the `share` of each row's tokens, EOS left out, that has the lowest probability."""
    real = torch.arange(sure.shape[1]) < widths[:, None] - 1
    ranks = sure.masked_fill(~real, torch.inf).argsort(1).argsort(1)
    return (ranks < ((widths - 1) * share).long()[:, None]) & real
