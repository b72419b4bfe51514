"""Several tokens a pass and not one of them other than at K=1: drafts that the same pass checks and replaces.

Every pass reads the drafts of the last one in autoregressive (clean) slots, which says which of them greedy K=1 would
have written, and drafts the next ones with masks behind them (the lookahead layout). Where all drafts were right the
new ones can be used; where one was wrong the pass after it only drafts. Clean slots see no mask, so the cache is the
autoregressive one, and what is written is what K=1 writes, up to rounding.

A `Drafter` decides what is drafted and what of it stands; with sampling it is `speculate.SpeculativeDrafter`.

Drafting and checking in turns: Stern, Shazeer and Uszkoreit 2018, arXiv 1811.03115; in one pass: section 4 there.
Shapes: R rows still running, C clean slots, D drafts, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.accept import verified_prefix
from multistride.decode.markov import chained
from multistride.decode.pick import Picked, greedy
from multistride.decode.prefix import read_prefix
from multistride.decode.state import DecodeState, Hypothesis
from multistride.model.config import TransformerConfig
from multistride.model.step import M, StepModel

AlignedPicker = Callable[[Float[Tensor, "R N V"], Int[Tensor, "R C"]], Picked]
"""Logits, and where each row's first, second, ... clean slot stands in them, to what the model writes there."""


def greedy_at(config: TransformerConfig) -> AlignedPicker:
    """The greedy choice of K=1 at every clean slot."""
    choose = greedy(config)

    def pick(logits: Float[Tensor, "R N V"], columns: Int[Tensor, "R C"]) -> Picked:
        picked = choose(logits)
        return Picked(picked.tokens.gather(1, columns), picked.log_probabilities.gather(1, columns))

    return pick


class Drafter:
    """The drafts of the running rows: none at first, and none after a wrong one."""

    def __init__(self, model: StepModel[M], rows: int, group_size: int, choose: AlignedPicker | None = None) -> None:
        self.group_size = group_size
        self.tokens = torch.zeros(rows, max(group_size - 1, 1), dtype=torch.long)
        self.counts = torch.zeros(rows, dtype=torch.long)
        self._choose = choose or greedy_at(model.config)
        self._draft = chained(model.config, model.markov)

    def verify(self, logits: Float[Tensor, "R N V"]) -> tuple[Picked, Int[Tensor, "R"]]:
        """What the model writes after the known tokens and after each draft [R, C], and how many of it stand [R]."""
        picked = self._choose(logits[:, : int(self.counts.max()) + 1], self.columns())
        return picked, verified_prefix(picked.tokens, self.tokens, self.counts)

    def columns(self) -> Int[Tensor, "R C"]:
        """The clean slots of every row from left to right; the last one again where a row has fewer than others."""
        most = int(self.counts.max())
        return (torch.arange(most + 1) + (most - self.counts)[:, None]).clamp(max=most)

    def renew(self, logits: Float[Tensor, "R N V"], picked: Picked, kept: Int[Tensor, "R"]) -> None:
        """Draft anew where every draft was right; elsewhere there is no draft for the next pass."""
        right = kept == self.counts + 1
        if self.group_size > 1 and bool(right.any()):
            anchor = picked.tokens.gather(1, self.counts[:, None]).squeeze(1)
            self.tokens = self._draft(logits[:, 1 - self.group_size :], anchor).tokens
        self.counts = torch.where(right, self.group_size - 1, 0)

    def leave(self, stay: Int[Tensor, "R"]) -> None:
        """Keep the given rows."""
        self.tokens, self.counts = self.tokens[stay], self.counts[stay]


def decode_exact(
    model: StepModel[M],
    source: Int[Tensor, "B S"] | None,
    lengths: Int[Tensor, "B"] | None,
    state: DecodeState,
    group_size: int,
    drafter: Drafter | None = None,
    prefix: tuple[int, ...] = (),
) -> Iterator[list[Hypothesis]]:
    """Write what K=1 writes, up to `group_size` tokens a pass; after each, yield the rows it wrote into.

    Without a `drafter` it is greedy K=1. Sentences begin with `prefix`.
    """
    memory = model.start(source, lengths)
    for prompt in state.prompt_slots():
        model.step(prompt, memory)
    drafter = drafter or Drafter(model, len(state.running), group_size)
    if prefix and not state.done:
        began = time.perf_counter()
        given = read_prefix(model, memory, len(state.running), prefix, 1)
        yield state.begin(*given, 1000 * (time.perf_counter() - began))
        if (stay := state.leave()) is not None and not state.done:
            memory.reorder(stay)
            drafter.leave(stay)
    while not state.done:
        began = time.perf_counter()
        slots = state.draft_slots(drafter.tokens, drafter.counts, group_size, model.config.mask_token)
        logits = model.step(slots, memory)  # propose
        picked, kept = drafter.verify(logits)
        memory.truncate(drafter.counts + group_size - kept)  # the masks, and the drafts that were wrong
        drafter.renew(logits, picked, kept)
        del logits  # they are large: those of two passes are never there together
        yield state.commit(picked, kept, group_size, 1000 * (time.perf_counter() - began))
        if (stay := state.leave()) is not None and not state.done:
            memory.reorder(stay)
            drafter.leave(stay)
