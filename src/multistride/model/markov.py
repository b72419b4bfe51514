"""The Markov head: dependence between neighbouring tokens of one group.

Shapes: A slots to predict, V vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multistride.model.config import TransformerConfig


class MarkovHead(nn.Module):
    """Scores of every token given the previous one in the same group, from two low-rank matrices.

    The tokens of a group are predicted independently of each other (arXiv 1808.08583, equation 4),
    which repeats words and drops them. Adding a first-order term to the logits, as the transition
    matrix of a conditional random field does (Sun et al. 2019, arXiv 1910.11555, section 3.2),
    makes each depend on the previous one, exactly normalised, for one look-up and one small product
    per token. The head is zero before it is trained.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.previous = nn.Embedding(config.vocabulary_size, config.markov_rank)
        self.following = nn.Parameter(torch.zeros(config.vocabulary_size, config.markov_rank))

    def forward(self, previous: Int[Tensor, "A"]) -> Float[Tensor, "A V"]:
        """Return what is added to the logits after each of the `previous` tokens."""
        added: Tensor = self.previous(previous) @ self.following.T
        return added
