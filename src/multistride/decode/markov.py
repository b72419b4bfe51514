"""Picking with a Markov head: each token of a group after the first is chosen by the one before it as well.

The head corrects the most probable tokens of a slot and leaves all others as they are; probabilities are normalised
over all of them. So it costs a look-up and a small product a token, whatever the vocabulary.

Shapes: R rows still running, K slots of the group, V vocabulary, C candidates of a slot.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.pick import Picked, Picker, greedy, leading, shortlist, without_symbols
from multistride.groups import NO_LABEL
from multistride.model.config import TransformerConfig
from multistride.model.markov import MarkovHead

ChainedPicker = Callable[[Float[Tensor, "R K V"], Int[Tensor, "R"]], Picked]
"""Logits of slots in a row, and the token before the first of them, to tokens."""

CANDIDATES = 32
"""Tokens of a slot that the head corrects."""


def greedy_for(config: TransformerConfig, head: MarkovHead | None) -> Picker:
    """The greedy picker of a model: with its Markov head where it has one."""
    return greedy(config) if head is None else markov_greedy(config, head)


def markov_greedy(config: TransformerConfig, head: MarkovHead, candidates: int = CANDIDATES) -> Picker:
    """Pick the first token of a group as `greedy` does and every other one among its corrected candidates."""
    first, others = greedy(config), chained(config, head, candidates)

    def pick(logits: Float[Tensor, "R K V"]) -> Picked:
        picked = first(logits[:, :1])
        if logits.shape[1] == 1:
            return picked
        parts = zip(picked, others(logits[:, 1:], picked.tokens[:, 0]), strict=True)
        return Picked(*(torch.cat(part, 1) for part in parts))

    return pick


def chained(config: TransformerConfig, head: MarkovHead | None, candidates: int = CANDIDATES) -> ChainedPicker:
    """A picker for slots that follow a token they have not seen; each is corrected by the one before it."""
    if head is None:
        alone = greedy(config)
        return lambda logits, previous: alone(logits)
    listed = shortlist(config)

    @torch.inference_mode()
    def pick(logits: Float[Tensor, "R K V"], previous: Int[Tensor, "R"]) -> Picked:
        tokens: list[Tensor] = []
        chosen: list[Tensor] = []
        candidate, plain = listed(logits, candidates)
        for slot in range(logits.shape[1]):
            before = tokens[-1] if tokens else previous
            corrected = correct(head, before, candidate[:, slot], plain[:, slot])
            best, index = corrected.max(dim=-1)
            tokens.append(candidate[:, slot].gather(1, index[:, None]).squeeze(1))
            chosen.append(best)
        return Picked(torch.stack(tokens, 1), torch.stack(chosen, 1))

    return pick


def correct(
    head: MarkovHead, previous: Int[Tensor, "R"], candidates: Int[Tensor, "R C"], plain: Float[Tensor, "R C"]
) -> Float[Tensor, "R C"]:
    """The log-probabilities of candidates after the `previous` tokens, from the `plain` ones.

    What the candidates gain or lose is shared out among all tokens: their probabilities and those of the tokens that
    are no candidates, which keep their proportions, still add up to one.
    """
    changed, total = _changed(head, previous, candidates, plain)
    return changed - total[:, None]


def distribution(
    config: TransformerConfig, head: MarkovHead | None, candidates: int = CANDIDATES
) -> Callable[[Float[Tensor, "A V"], Int[Tensor, "A"]], Float[Tensor, "A V"]]:
    """The log-probability of every token: what greedy decoding, sampling and scoring agree on.

    The second argument is the token before each slot in its own group, `groups.NO_LABEL` where there is none. The
    result is on the CPU.
    """
    pickable = without_symbols(config)

    @torch.no_grad()
    def log_probabilities(logits: Float[Tensor, "A V"], previous: Int[Tensor, "A"]) -> Float[Tensor, "A V"]:
        scores = pickable(logits).cpu()
        plain = scores.log_softmax(dim=-1)
        follows = previous != NO_LABEL
        if head is None or not bool(follows.any()):
            return plain
        listed = leading(scores[follows], candidates)[1]
        changed, total = _changed(head, previous[follows], listed, plain[follows].gather(1, listed))
        plain[follows] = (plain[follows] - total[:, None]).scatter(1, listed, changed - total[:, None])
        return plain

    return log_probabilities


def _changed(
    head: MarkovHead, previous: Int[Tensor, "R"], candidates: Int[Tensor, "R C"], plain: Float[Tensor, "R C"]
) -> tuple[Float[Tensor, "R C"], Float[Tensor, "R"]]:
    """The candidates' corrected scores, and the logarithm of what all tokens then add up to."""
    device = head.following.device
    changed = plain + head.among(previous.to(device), candidates.to(device)).cpu()
    others = -torch.expm1(plain.logsumexp(dim=-1).clamp(max=0))
    return changed, torch.logaddexp(others.log(), changed.logsumexp(dim=-1))
