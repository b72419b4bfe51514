"""Tokens drawn by chance, from the model's distribution or from the probable part of it.

Sources: top-k, Fan et al. 2018 (arXiv 1805.04833, section 5.1); top-p, Holtzman et al. 2020 (arXiv
1904.09751, section 3.1); min-p, Nguyen et al. 2024 (arXiv 2407.01082, section 3). Shapes: R rows
still running, K slots of the group, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.chances import Chances
from multistride.decode.markov import distribution
from multistride.decode.options import DecodeOptions
from multistride.decode.pick import Picked, Picker
from multistride.decode.walk import Permitted, one_by_one
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead

COLDEST = 1e-30
"""Temperatures below draw as this one does: float32 knows none as small."""


def sampler(
    config: TransformerConfig,
    head: MarkovHead | None,
    options: DecodeOptions,
    chances: Chances,
    permitted: Permitted | None = None,
    numbers: int | None = None,
) -> Picker:
    """A picker that draws each token; with a Markov head each depends on the one drawn before it in
    its group.

    Every step takes `numbers` chances of each row; None: as many as there are slots, which depends
    on neighbours where rows have groups of different sizes. Log-probabilities are the model's own,
    whatever `options` cut away.
    """
    walk = one_by_one(distribution(config, head), permitted, chances.state)

    def pick(logits: Float[Tensor, "R K V"]) -> Picked:
        drawn = chances(logits.shape[1] if numbers is None else numbers)
        return walk(
            logits, lambda values, place: draw(restricted(values, options), drawn[:, place]), None
        )

    return pick


def restricted(
    log_probabilities: Float[Tensor, "R V"], options: DecodeOptions
) -> Float[Tensor, "R V"]:
    """Log-probabilities at the temperature asked for, minus infinity where `top_k`, `top_p` or
    `min_p` cut.

    They are applied in this order, each to what the one before left; the most probable token always
    stays.
    """
    best = log_probabilities.max(dim=-1, keepdim=True).values
    # Divided by very little, all but the best become minus infinity, which log_softmax takes.
    values = ((log_probabilities - best) / max(options.temperature, COLDEST)).log_softmax(dim=-1)
    if 0 < options.top_k < values.shape[-1]:
        least = values.topk(options.top_k).values[:, -1:]
        values = values.masked_fill(values < least, float("-inf")).log_softmax(dim=-1)
    if options.top_p < 1:
        ordered, places = values.sort(dim=-1, descending=True, stable=True)
        before = ordered.exp().cumsum(dim=-1) - ordered.exp()
        beyond = torch.zeros_like(values, dtype=torch.bool).scatter(
            1, places, before >= options.top_p
        )
        beyond.scatter_(1, places[:, :1], False)
        values = values.masked_fill(beyond, float("-inf")).log_softmax(dim=-1)
    if options.min_p > 0:
        least = values.max(dim=-1, keepdim=True).values + float(np.log(options.min_p))
        values = values.masked_fill(values < least, float("-inf")).log_softmax(dim=-1)
    return values


def draw(log_probabilities: Float[Tensor, "R V"], chances: Float[Tensor, "R"]) -> Int[Tensor, "R"]:
    """The token each of `chances`, uniform in [0, 1), falls on when probabilities are laid end to
    end by token id.
    """
    ends = log_probabilities.double().exp().cumsum(dim=-1)
    tokens = torch.searchsorted(ends, (chances * ends[:, -1])[:, None], right=True).squeeze(1)
    return tokens.clamp(max=log_probabilities.shape[-1] - 1)
