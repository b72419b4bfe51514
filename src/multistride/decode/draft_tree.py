"""Trees of drafts: several tokens may be drafted for one place, and one pass checks all of them.

Each draft is read in a slot of its own that sees the text and the drafts it stands behind, so what
the model writes after it is what K=1 would write there. Then the text goes on along the drafts that
the model writes itself, and the slots of all others are forgotten. Where the first choice of a
drafter is wrong its second may be right, which a chain of drafts cannot use.

Sources: Miao et al. 2023 (SpecInfer, arXiv 2305.09781), section 4, for the pass; Li et al. 2024
(EAGLE-2, arXiv 2406.16858), section 4, for a tree of the drafts that are most likely to stand.
Shapes: N drafts, C = N + 1 slots: slot 0 reads the last token of the text, slot n + 1 draft n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool


class DraftTree(NamedTuple):
    """Drafts behind one text, each after the one that it stands behind; N may be 0."""

    tokens: list[int]
    parents: list[int]
    """The draft that each stands behind; -1: the last token of the text."""
    chances: list[float]
    """The probability that a draft stands, with all those before it; [] if it is not known."""

    def first(self, count: int) -> DraftTree:
        """Return the first `count` drafts, which are a tree as well."""
        return DraftTree(self.tokens[:count], self.parents[:count], self.chances[:count])

    @property
    def is_chain(self) -> bool:
        """Return True if every draft stands behind the one before it."""
        return self.parents == list(range(-1, len(self.parents) - 1))

    def depths(self) -> list[int]:
        """Return how many tokens ahead of the text each slot reads: 0, then those of the drafts."""
        depths = [0]
        for parent in self.parents:
            depths.append(depths[parent + 1] + 1)
        return depths

    def visible(self) -> Bool[np.ndarray, "C C"]:
        """Return which slots of the pass each slot sees: itself and those it stands behind."""
        seen = np.eye(len(self.parents) + 1, dtype=bool)
        for slot, parent in enumerate(self.parents, 1):
            seen[slot] |= seen[parent + 1]
        return seen

    def standing(self, written: Sequence[int]) -> list[int]:
        """Return the slots that stand, from slot 0 on, where the model has `written` these tokens
        after each of the C slots.
        """
        path = [0]
        for slot, (token, parent) in enumerate(zip(self.tokens, self.parents, strict=True), 1):
            if parent + 1 == path[-1] and token == written[parent + 1]:
                path.append(slot)
        return path


def chain(tokens: list[int]) -> DraftTree:
    """Return drafts that follow each other, with chances that are not known."""
    return DraftTree(tokens, list(range(-1, len(tokens) - 1)), [])
