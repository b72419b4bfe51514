"""Drafts without a network: what stood behind the same tokens before.

A text repeats itself and its prompt, and what one model writes resembles what it wrote before. So
the last few tokens are looked up in the text so far, prompt included, then in a table of what most
often followed them in text the model wrote (`decode.phrases`), and what followed there is drafted.
Exact mode checks it as it checks any draft, so it can cost a few slots and nothing else; no
training is needed.

When sampling, a draft x was not drawn: its probability q is 1, so x stands with probability p(x),
where p is what K=1 would draw from there, and what replaces it is drawn from p without x
(Leviathan, Kalman and Matias 2023, arXiv 2211.17192, section 2.3). That is what drawing from p
does, if x stands where it is drawn. Each token is drawn by the number that K=1 draws it by, so the
text is the one that K=1 samples with the same seed, up to rounding.

Source: copying from the text so far, Yang et al. 2023, arXiv 2304.04487; drafts from stored text,
He et al. 2023, arXiv 2311.08252. Shapes: R rows still running, N slots of the pass, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.accept import verified_prefix
from multistride.decode.chances import Chances
from multistride.decode.draft_head import DraftHead, Guessed
from multistride.decode.exact import AlignedPicker, Drafter
from multistride.decode.markov import distribution
from multistride.decode.options import DecodeOptions
from multistride.decode.phrases import LONGEST, SHORTEST, PhraseTable
from multistride.decode.pick import Picked
from multistride.decode.sample import draw, restricted
from multistride.decode.state import DecodeState
from multistride.decode.step import M, ShowsStates, StepModel
from multistride.decode.walk import Permitted, one_by_one
from multistride.decode.writer import Proposed

SURE, LONG = 0.5, 3
"""Masks whose first draft is this probable give way only to phrases of the text so far that are
this long."""

LIKELY = 0.1
"""Drafts of a head less likely to stand than this are not worth the slot that checks them."""

POSSIBLE = 0.05
"""The same of drafts in a tree, where many are about as likely."""


class SoFar:
    """One text as it grows, with the places where its phrases stood last."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self.tokens: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens."""
        for token in tokens:
            place = len(self.tokens)
            for length in range(SHORTEST, min(LONGEST, place) + 1):
                self._behind[tuple(self.tokens[place - length :])] = place
            self.tokens.append(token)

    def following(self, most: int, shortest: int = SHORTEST) -> list[int]:
        """Return `most` tokens that followed the longest final phrase where it last stood."""
        return self.match(most, shortest)[1]

    def match(self, most: int, shortest: int = SHORTEST) -> tuple[int, list[int]]:
        """Return the length of that phrase and what followed it; 0 and [] if there is none."""
        for length in range(min(LONGEST, len(self.tokens)), shortest - 1, -1):
            place = self._behind.get(tuple(self.tokens[-length:]))
            if place is not None:
                period = len(self.tokens) - place  # a copy that reaches its own end goes round
                return length, [self.tokens[place + offset % period] for offset in range(most)]
        return 0, []


class Copied(NamedTuple):
    """The sources of drafts beside the text so far: a table of phrases, masks, a draft head, and
    the prefix that every text begins with.
    """

    table: PhraseTable | None = None
    masks: bool = True
    prefix: Sequence[int] = ()
    head: DraftHead | None = None


class PhraseDrafter(Drafter[M]):
    """Drafts by phrases where the text so far or the table has any; by masks elsewhere or where
    they are sure.
    """

    def __init__(
        self,
        engine: StepModel[M],
        state: DecodeState,
        group_size: int,
        sources: Copied,
        choose: AlignedPicker | None = None,
    ) -> None:
        super().__init__(engine, len(state.running), group_size, choose, sources.masks)
        self._texts = [SoFar([*known, *sources.prefix]) for known in state.known()]
        self._shown = engine if isinstance(engine, ShowsStates) else None
        self._states: Float[Tensor, "R C D"] | None = None
        self._head, self._guessed = sources.head, list[list[int]]()
        self._table, self._shortest = sources.table, SHORTEST if sources.masks else 1
        self._sure = torch.zeros(len(state.running), dtype=torch.bool)
        self._paused = False
        self._look_up()

    def pause(self, paused: bool) -> None:
        """Write as K=1 does from the next pass on, or draft again; texts are kept up meanwhile."""
        changed, self._paused = paused != self._paused, paused
        super().pause(paused)
        if changed and not paused:
            self._look_up()

    def pick(self, proposed: Proposed, memory: M) -> Picked:
        """Pick what K=1 writes after the known tokens and after each draft."""
        if self._head is None or self._shown is None:
            return super().pick(proposed, memory)
        self._logits, self._states = self._shown.step_with_states(proposed.slots, memory)
        picked, self._kept = self.verify(self._logits)
        return picked

    def renew(self, logits: Float[Tensor, "R N V"], picked: Picked, kept: Int[Tensor, "R"]) -> None:
        """Draft anew behind what was kept."""
        self._sure = torch.zeros(len(kept), dtype=torch.bool)
        self.guess(picked, kept)
        super().renew(logits, picked, kept)
        self.follow(picked, kept)

    def follow(self, picked: Picked, kept: Int[Tensor, "R"]) -> None:
        """Add what was kept to the texts, and look up what may come next."""
        for text, tokens, count in zip(
            self._texts, picked.tokens.tolist(), kept.tolist(), strict=True
        ):
            text.extend(tokens[:count])
        self._look_up()

    def guess(self, picked: Picked, kept: Int[Tensor, "R"]) -> None:
        """Draft by the head, if there is one, from the states of the pass, for the next look-up."""
        if self._head is None or self._states is None or self._paused or self.group_size == 1:
            return
        rows = torch.arange(len(kept))
        columns = int(self.counts.max()) - self.counts + kept - 1
        written = picked.tokens[rows, kept - 1]
        drafts = self._head.guess(self._states[rows, columns], written, self.group_size - 1, LIKELY)
        self._guessed = likely(drafts)

    def leave(self, stay: Int[Tensor, "R"]) -> None:
        """Keep the given rows."""
        super().leave(stay)
        self._sure = self._sure[stay]
        self._texts = [self._texts[row] for row in stay.tolist()]

    def join(self, other: Drafter[M]) -> None:
        """Put the rows of another drafter of the same kind behind its own."""
        assert isinstance(other, PhraseDrafter)
        super().join(other)
        self._sure = torch.cat([self._sure, other._sure])
        self._texts = [*self._texts, *other._texts]

    def _draft_from(self, logits: Float[Tensor, "R D V"], previous: Int[Tensor, "R"]) -> None:
        drafted = self._draft(logits, previous)
        self.tokens, self._sure = drafted.tokens, drafted.log_probabilities[:, 0].exp() >= SURE

    def _look_up(self) -> None:
        if self._paused:
            return
        most = self.group_size - 1
        tokens, counts = self.tokens.tolist(), self.counts.tolist()
        guessed, self._guessed = self._guessed or [[]] * len(tokens), []
        for row, (text, sure) in enumerate(
            zip(self._texts, (self._sure & (self.counts > 0)).tolist(), strict=True)
        ):
            found = text.following(most, LONG if sure else SHORTEST)
            found = found or guessed[row]
            if not found and not sure and self._table is not None:
                found = self._table.following(text.tokens, most, self._shortest)
            if found:
                tokens[row][: len(found)], counts[row] = found, len(found)
        self.tokens = torch.tensor(tokens, dtype=torch.long).reshape(self.tokens.shape)
        self.counts = torch.tensor(counts, dtype=torch.long)


def likely(guessed: Guessed) -> list[list[int]]:
    """Return the drafts of every row as far as they are `LIKELY` to stand, all of them."""
    counts = (guessed.probabilities.cumprod(1) >= LIKELY).sum(1).tolist()
    return [row[:count] for row, count in zip(guessed.tokens.tolist(), counts, strict=True)]


class SamplingPhraseDrafter(PhraseDrafter[M]):
    """Drafts that were not drawn, checked against what K=1 samples with the same seed."""

    def __init__(
        self,
        engine: StepModel[M],
        options: DecodeOptions,
        state: DecodeState,
        seeds: list[int],
        sources: Copied,
        permitted: Permitted | None = None,
    ) -> None:
        super().__init__(engine, state, options.group_size, sources)
        self._options = options
        self._chances = Chances(seeds, state)
        self._walk = one_by_one(distribution(engine.config, None), permitted, state)

    def verify(self, logits: Float[Tensor, "R N V"]) -> tuple[Picked, Int[Tensor, "R"]]:
        """Return the tokens sampled after the known ones and after each draft [R, C], and how many
        stand [R].

        Every token that stands uses up one number, as at K=1.
        """
        clean = int(self.counts.max()) + 1
        drawn = self._chances.ahead(clean)

        def choose(values: Float[Tensor, "R V"], place: int) -> Int[Tensor, "R"]:
            return draw(restricted(values, self._options), drawn[:, place])

        picked = self._walk(logits[:, :clean], choose, self.columns())
        kept = verified_prefix(picked.tokens, self.tokens, self.counts)
        self._chances.use(kept)
        return picked, kept

    def join(self, other: Drafter[M]) -> None:
        """Put the rows of another drafter of the same kind behind its own."""
        assert isinstance(other, SamplingPhraseDrafter)
        super().join(other)
        self._chances.join(other._chances)
