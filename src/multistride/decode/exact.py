"""Several tokens a pass and not one of them other than at K=1: drafts that the same pass checks and
replaces.

Every pass reads the drafts of the last one in autoregressive (clean) slots, which says which of
them greedy K=1 would have written, and drafts the next ones with masks behind them (the lookahead
layout). Where all drafts were right the new ones can be used; where one was wrong the pass after it
only drafts. With `all-masks`, and in a model whose masks cost little (those of adapters), every
clean slot is drafted from, so that no pass is without drafts. Clean slots see no mask, so the cache
is the autoregressive one, and what is written is what K=1 writes, up to rounding.

A `Drafter` decides what is drafted and what of it stands; with sampling it is
`speculate.SpeculativeDrafter`.

Drafting and checking in turns: Stern, Shazeer and Uszkoreit 2018, arXiv 1811.03115; in one pass:
section 4 there. Shapes: R rows still running, C clean slots, D drafts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.accept import verified_prefix
from multistride.decode.markov import chained
from multistride.decode.pick import Picked, greedy
from multistride.decode.state import DecodeState
from multistride.decode.step import M, StepModel
from multistride.decode.writer import Proposed
from multistride.groups import Slots
from multistride.model.config import TransformerConfig

AlignedPicker = Callable[[Float[Tensor, "R N V"], Int[Tensor, "R C"]], Picked]
"""Logits, and where each row's first, second, ... clean slot stands in them, to what the model
writes there."""


def greedy_at(config: TransformerConfig) -> AlignedPicker:
    """The greedy choice of K=1 at every clean slot."""
    choose = greedy(config)

    def pick(logits: Float[Tensor, "R N V"], columns: Int[Tensor, "R C"]) -> Picked:
        picked = choose(logits)
        return Picked(picked.tokens.gather(1, columns), picked.log_probabilities.gather(1, columns))

    return pick


class Drafter(Generic[M]):
    """The drafts of the running rows: none at first, and none after a wrong one unless every slot
    is drafted from.
    """

    def __init__(
        self,
        engine: StepModel[M],
        rows: int,
        group_size: int,
        choose: AlignedPicker | None = None,
        masks: bool = True,
        everywhere: bool = False,
    ) -> None:
        self.engine, self.group_size = engine, group_size
        self._most_masks = group_size - 1 if masks else 0
        self.masks = self._most_masks  # behind a slot that is drafted from
        self.everywhere = everywhere or engine.config.adapter is not None
        self.tokens = torch.zeros(rows, max(group_size - 1, 1), dtype=torch.long)
        self.counts = torch.zeros(rows, dtype=torch.long)
        self._choose = choose or greedy_at(engine.config)
        self._draft = chained(engine.config, engine.markov)

    @property
    def prefix_size(self) -> int | None:
        """Prefixes are read in clean slots, as everything that is known."""
        return 1

    def propose(self, state: DecodeState) -> Proposed:
        """Return the drafts to check, and masks that draft further."""
        return Proposed(self.slots(state, self.engine.config.mask_token), self.group_size)

    def pick(self, proposed: Proposed, memory: M) -> Picked:
        """Pick what K=1 writes after the known tokens and after each draft."""
        self._logits = self.engine.step(proposed.slots, memory)
        picked, self._kept = self.verify(self._logits)
        return picked

    def accept(self, picked: Picked, proposed: Proposed, memory: M) -> Int[Tensor, "R"]:
        """Return how many tokens stand; what is of no use is forgotten, and new drafts are made."""
        kept = self._kept
        memory.truncate(self.forgotten(kept))
        self.renew(self._logits, picked, kept)
        del self._logits  # they are large: those of two passes are never there together
        return kept

    def verify(self, logits: Float[Tensor, "R N V"]) -> tuple[Picked, Int[Tensor, "R"]]:
        """Return the tokens after the known ones and after each draft [R, C], and how many stand
        [R].
        """
        picked = self._choose(logits[:, : int(self.counts.max()) + 1], self.columns())
        return picked, verified_prefix(picked.tokens, self.tokens, self.counts)

    def pause(self, paused: bool) -> None:
        """Write as K=1 does from the next pass on, without drafts and masks, or draft again."""
        self.masks = 0 if paused else self._most_masks
        if paused:
            self.counts = torch.zeros_like(self.counts)

    def columns(self) -> Int[Tensor, "R C"]:
        """The clean slots of every row from left to right; the last one again where a row has fewer
        than others.
        """
        most = int(self.counts.max())
        return (torch.arange(most + 1) + (most - self.counts)[:, None]).clamp(max=most)

    def slots(self, state: DecodeState, mask_token: int) -> Slots:
        """The slots of the next pass: drafts to check, and masks."""
        return state.draft_slots(
            self.tokens, self.counts, self.masks + 1, mask_token, self.everywhere
        )

    def forgotten(self, kept: Int[Tensor, "R"]) -> Int[Tensor, "R"]:
        """Return how many last slots of the pass to forget: all masks, and rejected drafts."""
        drafting = int(self.counts.max()) + 1 if self.everywhere else 1
        return self.counts + 1 - kept + drafting * self.masks

    def renew(self, logits: Float[Tensor, "R N V"], picked: Picked, kept: Int[Tensor, "R"]) -> None:
        """Draft anew behind what was kept; where masks stood behind the last draft only and it was
        wrong: nothing.
        """
        fresh = self.everywhere | (kept == self.counts + 1)
        if self.masks and bool(fresh.any()):
            previous = picked.tokens.gather(1, kept[:, None] - 1).squeeze(1)
            self._draft_from(self._logits_of_masks(logits, kept), previous)
        self.counts = torch.where(fresh, self.masks, 0)

    def _draft_from(self, logits: Float[Tensor, "R D V"], previous: Int[Tensor, "R"]) -> None:
        """Pick drafts from the logits of masks; `previous` is the token before the first of
        them.
        """
        self.tokens = self._draft(logits, previous).tokens

    def _logits_of_masks(
        self, logits: Float[Tensor, "R N V"], kept: Int[Tensor, "R"]
    ) -> Float[Tensor, "R D V"]:
        """The logits of the masks behind the last slot that was kept; else of those behind the last
        draft.
        """
        if not self.everywhere:
            return logits[:, -self.masks :]
        most = int(self.counts.max())
        masks = logits[:, most + 1 :].unflatten(1, (most + 1, self.masks))
        drafting: Tensor = masks[torch.arange(len(masks)), most - self.counts + kept - 1]
        return drafting

    def leave(self, stay: Int[Tensor, "R"]) -> None:
        """Keep the given rows."""
        self.tokens, self.counts = self.tokens[stay], self.counts[stay]

    def join(self, other: Drafter[M]) -> None:
        """Put the rows of another drafter of the same kind behind its own."""
        self.tokens = torch.cat([self.tokens, other.tokens])
        self.counts = torch.cat([self.counts, other.counts])
