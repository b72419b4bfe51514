"""Picking with a Markov head: each token of a group after the first is chosen by the one before it
as well.

The head corrects every token of a slot, so probabilities are exact; a token costs a product of rank
and vocabulary. Correcting only the most probable costs more time (finding them does) and, in large
groups, much quality: what fits the token before is often far down the list of a slot that did not
see it.

Shapes: R rows still running, K slots of the group, A slots asked, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.pick import Picked, Picker, greedy, in_pieces, leading, without_symbols
from multistride.groups import NO_LABEL
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead

ChainedPicker = Callable[[Float[Tensor, "R K V"], Int[Tensor, "R"]], Picked]
"""Logits of slots in a row, and the token before the first of them, to tokens."""


def greedy_for(config: TransformerConfig, head: MarkovHead | None) -> Picker:
    """The greedy picker of a model: with its Markov head where it has one."""
    return greedy(config) if head is None else markov_greedy(config, head)


def markov_greedy(config: TransformerConfig, head: MarkovHead) -> Picker:
    """Pick the first token of a group as `greedy` does and every other one by the one before it as
    well.
    """
    pickable = without_symbols(config)
    return lambda logits: Picked(*(each.cpu() for each in followed(pickable, head, logits, None)))


def chained(config: TransformerConfig, head: MarkovHead | None) -> ChainedPicker:
    """A picker for slots that follow a token they have not seen; each is corrected by the one
    before it.
    """
    if head is None:
        alone = greedy(config)
        return lambda logits, previous: alone(logits)
    pickable = without_symbols(config)
    return lambda logits, previous: Picked(
        *(each.cpu() for each in followed(pickable, head, logits, previous))
    )


@torch.inference_mode()
def followed(
    pickable: Callable[[Float[Tensor, "R V"]], Float[Tensor, "R V"]],
    head: MarkovHead,
    logits: Float[Tensor, "R K V"],
    previous: Int[Tensor, "R"] | None,
) -> tuple[Int[Tensor, "R K"], Float[Tensor, "R K"]]:
    """The most probable token of each slot after the one before it, and its log-probability, where
    the logits are.

    The first slot follows `previous`; without it (None) it is not corrected. `pickable` makes what
    is never picked impossible. Nothing here waits for a device or copies to it, so it can be
    recorded.
    """
    before = None if previous is None else previous.to(logits.device)
    tokens: list[Tensor] = []
    chosen: list[Tensor] = []
    for slot in range(logits.shape[1]):
        scores = pickable(logits[:, slot])
        if before is not None:
            scores += head(before).float()
        best, before = scores.max(dim=-1)
        tokens.append(before)
        chosen.append(best - scores.logsumexp(dim=-1))
    return torch.stack(tokens, 1), torch.stack(chosen, 1)


def searched(config: TransformerConfig, head: MarkovHead, width: int) -> Picker:
    """Pick the most probable of the groups that a beam of `width` finds in the logits of a pass.

    Token by token the chain cannot take back a token that nothing fits behind. Groups are compared
    by their log-probability per token, up to the first token that ends a text; of equal ones the
    first found wins. With `width` 1 it is `markov_greedy`. Source: the search of a first-order
    chain over non-autoregressive logits, Sun et al. 2019 (arXiv 1910.11555, section 3.3).
    """
    pickable = without_symbols(config)

    def pick(logits: Float[Tensor, "R K V"]) -> Picked:
        parts = [
            _best_group(pickable, head, config.ends, width, part) for part in in_pieces(logits)
        ]
        return Picked(*(torch.cat(each).cpu() for each in zip(*parts, strict=True)))

    return pick


@torch.inference_mode()
def _best_group(
    pickable: Callable[[Float[Tensor, "R V"]], Float[Tensor, "R V"]],
    head: MarkovHead,
    ends: tuple[int, ...],
    width: int,
    logits: Float[Tensor, "R K V"],
) -> tuple[Int[Tensor, "R K"], Float[Tensor, "R K"]]:
    """Return the tokens of the best group of each row and their log-probabilities.

    Behind a token that ends a text the group is filled with that token, at no cost.
    """
    last_of_text = torch.tensor(ends, device=logits.device)
    scores = pickable(logits[:, 0])
    values, tokens = leading(scores, width)
    values = values - scores.logsumexp(dim=-1, keepdim=True)
    groups, parts = tokens[:, :, None], values[:, :, None]
    over = torch.isin(tokens, last_of_text)
    counts = torch.ones_like(values)
    for slot in range(1, logits.shape[1]):
        added = head(groups[:, :, -1].flatten()).float().view(*groups.shape[:2], -1)
        scores = pickable(logits[:, slot])[:, None] + added
        values, tokens = leading(scores, width)
        values = values - scores.logsumexp(dim=-1, keepdim=True)
        kept = torch.full_like(values, float("-inf"))
        kept[:, :, 0] = 0.0
        values = torch.where(over[:, :, None], kept, values)
        tokens = torch.where(over[:, :, None], groups[:, :, -1:], tokens)
        counts = counts + ~over
        ranks = (parts.sum(dim=-1, keepdim=True) + values) / counts[:, :, None]
        places = leading(ranks.flatten(1), width)[1]
        parents = places // tokens.shape[-1]
        taken = parents[:, :, None].expand(-1, -1, slot)
        groups = torch.cat(
            [groups.gather(1, taken), tokens.flatten(1).gather(1, places)[:, :, None]], dim=-1
        )
        parts = torch.cat(
            [parts.gather(1, taken), values.flatten(1).gather(1, places)[:, :, None]], dim=-1
        )
        counts = counts.gather(1, parents)
        over = torch.isin(groups[:, :, -1], last_of_text)
    return groups[:, 0], parts[:, 0]


def distribution(
    config: TransformerConfig, head: MarkovHead | None
) -> Callable[[Float[Tensor, "A V"], Int[Tensor, "A"]], Float[Tensor, "A V"]]:
    """The log-probability of every token: what greedy decoding, sampling and scoring agree on.

    The second argument is the token before each slot in its own group, `groups.NO_LABEL` where
    there is none. The result is on the CPU.
    """
    pickable = without_symbols(config)

    @torch.no_grad()
    def log_probabilities(
        logits: Float[Tensor, "A V"], previous: Int[Tensor, "A"]
    ) -> Float[Tensor, "A V"]:
        scores = pickable(logits)
        follows = previous != NO_LABEL
        if head is not None and bool(follows.any()):
            there = follows.to(scores.device)
            scores[there] += head(previous[follows].to(scores.device)).float()
        return scores.log_softmax(dim=-1).cpu()

    return log_probabilities
