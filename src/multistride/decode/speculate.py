"""Sampling at K=1, several tokens a pass: drafts are drawn, and kept so often that the text has
K=1's distribution.

A draft x drawn from q stands with probability
min(1, p(x) / q(x)), where p is what sampling at K=1 would draw from there; where it does not stand,
a token drawn from what p has more of than q, normalised, stands instead. Where all drafts stand one
more token is drawn from p. Temperature and cuts apply to p and q alike; constraints to p, since
what they bar is never to stand. Passes, cache and ragged rows are those of exact mode. Drafts that
were not drawn are sampled with in `decode.copying`.

Source: Leviathan, Kalman and Matias 2023, arXiv 2211.17192, sections 2.2 and 2.3 and appendix A.1
(the proof); Chen et al. 2023, arXiv 2302.01318, algorithm 2. Shapes: R rows still running, N slots
of the pass, C clean slots, D drafts, V vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.chances import Chances
from multistride.decode.exact import Drafter
from multistride.decode.markov import distribution
from multistride.decode.options import DecodeOptions
from multistride.decode.pick import Picked
from multistride.decode.sample import draw, restricted
from multistride.decode.state import DecodeState
from multistride.decode.step import M, StepModel
from multistride.decode.walk import Permitted, one_by_one


class SpeculativeDrafter(Drafter[M]):
    """Drafts drawn by chance, and the distributions they were drawn from."""

    def __init__(
        self,
        engine: StepModel[M],
        options: DecodeOptions,
        state: DecodeState,
        seeds: list[int],
        permitted: Permitted | None = None,
    ) -> None:
        everywhere = options.drafts == "all-masks"
        super().__init__(engine, len(state.running), options.group_size, everywhere=everywhere)
        self._options = options
        self._chances = Chances(seeds, state)
        self._walk = one_by_one(distribution(engine.config, None), permitted, state)
        self._following = distribution(engine.config, engine.markov)
        shape = (*self.tokens.shape, engine.config.vocabulary_size)
        self._draft_log_probabilities = torch.full(shape, float("-inf"))
        self._drawn = torch.zeros(0)

    def verify(self, logits: Float[Tensor, "R N V"]) -> tuple[Picked, Int[Tensor, "R"]]:
        """The drafts that stand and the token after them [R, C], and how many that is [R].

        Of a row's chances the first decide on its drafts, one draws the token that no draft gives,
        and the others draw the next drafts: their number depends on no neighbour.
        """
        most = self.group_size - 1
        self._drawn = self._chances(2 * most + 1)
        standing = torch.ones(len(logits), dtype=torch.bool)
        kept = torch.ones(len(logits), dtype=torch.long)

        def choose(values: Float[Tensor, "R V"], place: int) -> Int[Tensor, "R"]:
            nonlocal standing, kept
            wanted = restricted(values, self._options)
            if place == most:
                return draw(wanted, self._drawn[:, most])
            drafted = place < self.counts
            draft, drafts_from = (
                self.tokens[:, place],
                self._draft_log_probabilities[:, place].double().exp(),
            )
            drafts_from = drafts_from * drafted[:, None]
            more = (wanted.double().exp() - drafts_from).clamp(min=0)
            possible = (
                more.sum(dim=1, keepdim=True) > 0
            )  # else p is q up to rounding, and the draft all but stands
            other = draw(torch.where(possible, more.log(), wanted.double()), self._drawn[:, most])
            at_draft = wanted.double().exp().gather(1, draft[:, None]).squeeze(1)
            asked = self._drawn[:, place] * drafts_from.gather(1, draft[:, None]).squeeze(1)
            stands = drafted & (asked < at_draft)
            standing = standing & stands
            kept = kept + standing
            return torch.where(stands, draft, other)

        clean = int(self.counts.max()) + 1
        return self._walk(logits[:, :clean], choose, self.columns()), kept

    def _draft_from(self, logits: Float[Tensor, "R D V"], previous: Int[Tensor, "R"]) -> None:
        """Draw drafts, and remember what they were drawn from."""
        tokens, drawn_from = [], []
        for place in range(1 - self.group_size, 0):
            own = restricted(self._following(logits[:, place], previous), self._options)
            previous = draw(own, self._drawn[:, place])
            tokens.append(previous)
            drawn_from.append(own)
        self.tokens, self._draft_log_probabilities = (
            torch.stack(tokens, 1),
            torch.stack(drawn_from, 1),
        )

    def leave(self, stay: Int[Tensor, "R"]) -> None:
        """Keep the given rows."""
        super().leave(stay)
        self._draft_log_probabilities = self._draft_log_probabilities[stay]

    def join(self, other: Drafter[M]) -> None:
        """Put the rows of another drafter of the same kind behind its own."""
        assert isinstance(other, SpeculativeDrafter)
        super().join(other)
        drawn_from = self._draft_log_probabilities, other._draft_log_probabilities
        self._draft_log_probabilities = torch.cat(drawn_from)
        self._chances.join(other._chances)
