"""Several tokens a pass and not one of them other than at K=1: drafts that the same pass checks and replaces.

Every pass reads the drafts of the last one in autoregressive (clean) slots, which says which of them greedy K=1 would
have written, and drafts the next ones with masks behind them (the lookahead layout). Where all drafts were right the
new ones can be used; where one was wrong the pass after it only drafts. Clean slots see no mask, so the cache is the
autoregressive one, and what is written is what K=1 writes, up to rounding.

Drafting and checking in turns: Stern, Shazeer and Uszkoreit 2018, arXiv 1811.03115; in one pass: section 4 there.
Shapes: R rows still running, C clean slots, D drafts, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.accept import verified_prefix
from multistride.decode.markov import chained
from multistride.decode.pick import Picked, greedy
from multistride.decode.state import DecodeState, Hypothesis
from multistride.model.step import M, StepModel


class Drafter:
    """The drafts of the running rows: none at first, and none after a wrong one."""

    def __init__(self, model: StepModel[M], rows: int, group_size: int) -> None:
        self.group_size = group_size
        self.tokens = torch.zeros(rows, max(group_size - 1, 1), dtype=torch.long)
        self.counts = torch.zeros(rows, dtype=torch.long)
        self._choose = greedy(model.config)
        self._draft = chained(model.config, model.markov)

    def clean(self, logits: Float[Tensor, "R N V"]) -> Picked:
        """What the model writes after the known tokens [R, 1] and after each draft, aligned on the left [R, C]."""
        most = int(self.counts.max())
        picked = self._choose(logits[:, : most + 1])
        columns = (torch.arange(most + 1) + (most - self.counts)[:, None]).clamp(max=most)
        return Picked(picked.tokens.gather(1, columns), picked.log_probabilities.gather(1, columns))

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
) -> Iterator[list[Hypothesis]]:
    """Write what greedy K=1 writes, up to `group_size` tokens a pass; after each, yield the rows it wrote into."""
    memory = model.start(source, lengths)
    for prompt in state.prompt_slots():
        model.step(prompt, memory)
    drafter = Drafter(model, len(state.running), group_size)
    while not state.done:
        began = time.perf_counter()
        slots = state.draft_slots(drafter.tokens, drafter.counts, group_size, model.config.mask_token)
        logits = model.step(slots, memory)  # propose
        picked = drafter.clean(logits)
        kept = verified_prefix(picked.tokens, drafter.tokens, drafter.counts)
        memory.truncate(drafter.counts + group_size - kept)  # the masks, and the drafts that were wrong
        drafter.renew(logits, picked, kept)
        yield state.commit(picked, kept, group_size, 1000 * (time.perf_counter() - began))
        if (stay := state.leave()) is not None and not state.done:
            memory.reorder(stay)
            drafter.leave(stay)
