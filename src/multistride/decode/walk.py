"""Picking the tokens of a group from left to right, each in sight of all before it.

Rules about what may be written (`constraints.py`) and chance (`sample.py`) need this walk; plain
greedy decoding picks all slots at once. Shapes: R rows still running, K slots of the group, C slots
walked, V vocabulary, A rows asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multistride.decode.pick import Picked
from multistride.decode.state import DecodeState
from multistride.groups import NO_LABEL

Permitted = Callable[
    [Float[Tensor, "R V"], Sequence[Sequence[int]], Sequence[int]], Float[Tensor, "R V"]
]
"""Log-probabilities, what each row has written and which sentence of the batch it is, to the same
log-probabilities with minus infinity for what may not come next."""

Choice = Callable[[Float[Tensor, "R V"], int], Int[Tensor, "R"]]
"""Log-probabilities of what may come, and the place in the walk, to one token a row."""

Distribution = Callable[[Float[Tensor, "A V"], Int[Tensor, "A"]], Float[Tensor, "A V"]]
"""Logits, and the token before each slot in its own group, to log-probabilities
(`markov.distribution`)."""


def one_by_one(
    distribution: Distribution,
    permitted: Permitted | None,
    state: DecodeState,
) -> Callable[[Float[Tensor, "R K V"], Choice, Int[Tensor, "R C"] | None], Picked]:
    """A walk through the slots of a group: each token is chosen in sight of all before it.

    The third argument of the walk says which slot is each row's first, second, ... where that is
    not the order of the slots.
    """

    def walk(
        logits: Float[Tensor, "R K V"], choose: Choice, columns: Int[Tensor, "R C"] | None = None
    ) -> Picked:
        rows = torch.arange(len(logits))
        histories = [list(hypothesis.tokens) for hypothesis in state.running]
        sentences = [hypothesis.row for hypothesis in state.running]
        previous = torch.full((len(logits),), NO_LABEL)
        tokens, values = [], []
        for place in range(logits.shape[1] if columns is None else columns.shape[1]):
            slot = logits[:, place] if columns is None else logits[rows, columns[:, place]]
            own = distribution(slot, previous)
            previous = choose(
                own if permitted is None else permitted(own, histories, sentences), place
            )
            for history, token in zip(histories, previous.tolist(), strict=True):
                history.append(token)
            tokens.append(previous)
            values.append(own.gather(1, previous[:, None]).squeeze(1))
        return Picked(torch.stack(tokens, 1), torch.stack(values, 1))

    return walk


def most_probable(values: Float[Tensor, "R V"], place: int) -> Int[Tensor, "R"]:
    """The greedy choice; of equally probable tokens the lowest id."""
    return values.argmax(dim=1)
