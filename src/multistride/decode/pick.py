"""From logits to tokens. A picker is made once, outside the loop, and called once a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead

MARKOV_CANDIDATES = 32
"""Tokens of a slot that the Markov head corrects, the most probable ones."""


class Picked(NamedTuple):
    """One token for every slot of a group, and its log-probability (natural logarithm); both on the CPU."""

    tokens: Int[Tensor, "R K"]
    log_probabilities: Float[Tensor, "R K"]


Picker = Callable[[Float[Tensor, "R K V"]], Picked]


def greedy(config: TransformerConfig) -> Picker:
    """Pick the most probable token of each slot; of equally probable ones the lowest id.

    The padding, start and mask symbols are never picked; probabilities are over what can be.
    """
    allowed = allow(config)

    def pick(logits: Float[Tensor, "R K V"]) -> Picked:
        scores = allowed(logits)
        best, tokens = scores.max(dim=-1)
        return Picked(tokens.cpu(), (best - scores.logsumexp(dim=-1)).cpu())

    return pick


def markov_greedy(config: TransformerConfig, head: MarkovHead, candidates: int = MARKOV_CANDIDATES) -> Picker:
    """Pick as `greedy` does, but each slot after the first of a group by the token picked before it as well.

    The head corrects the `candidates` most probable tokens of a slot and one of them is picked; all other tokens keep
    their logits. Probabilities are normalised over all tokens.
    """
    allowed = allow(config)

    @torch.inference_mode()
    def pick(logits: Float[Tensor, "R K V"]) -> Picked:
        scores = allowed(logits)
        totals = scores.logsumexp(dim=-1)
        best, token = scores[:, 0].max(dim=-1)
        tokens, chosen = [token], [best - totals[:, 0]]
        if scores.shape[1] > 1:
            # In the order of their ids, so that of equally probable candidates the lowest is picked.
            places = scores[:, 1:].topk(min(candidates, scores.shape[-1]), dim=-1).indices.sort(dim=-1).values
            plain = scores[:, 1:].gather(-1, places)
        for slot in range(scores.shape[1] - 1):
            corrected = plain[:, slot] + head.among(token, places[:, slot])
            best, index = corrected.max(dim=-1)
            token = places[:, slot].gather(1, index[:, None]).squeeze(1)
            tokens.append(token)
            chosen.append(best - _total(totals[:, slot + 1], plain[:, slot], corrected))
        return Picked(torch.stack(tokens, 1).cpu(), torch.stack(chosen, 1).cpu())

    return pick


def greedy_for(config: TransformerConfig, head: MarkovHead | None) -> Picker:
    """The greedy picker of a model: with its Markov head where it has one."""
    return greedy(config) if head is None else markov_greedy(config, head)


def allow(config: TransformerConfig) -> Callable[[Tensor], Tensor]:
    """A function from logits to float32 scores that are minus infinity for what is never written."""
    never = torch.tensor([config.pad_token, config.start_token, config.mask_token])

    def allowed(logits: Tensor) -> Tensor:
        return logits.float().index_fill(-1, never.to(logits.device), float("-inf"))

    return allowed


def _total(total: Tensor, plain: Tensor, corrected: Tensor) -> Tensor:
    """The logarithm of the sum over all tokens when some of its terms change from `plain` to `corrected`."""
    share = -torch.expm1((plain.logsumexp(dim=-1) - total).clamp(max=0))
    return torch.logaddexp(total + share.log(), corrected.logsumexp(dim=-1))
