"""Policies: the size of the next group of every row, each with its reason.

A policy looks at the state and nothing else, so what it chooses for a sentence follows from that
sentence (and, with `cost_model`, from how many are in the batch). How much of what is proposed is
kept is not its concern: see `accept`.

Shapes: R rows still running.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from multistride.decode.choosing.cost import KeptStatistics, StepCosts
from multistride.decode.hypothesis import AS_ASKED, Group, Hypothesis
from multistride.decode.state import DecodeState
from multistride.errors import UsageError

SURE = 0.5
"""How probable a group must be, all tokens together, for the policy `phase` to write more in the
next step."""


class Proposal(NamedTuple):
    """Sizes of the next groups [R], and the reason for each."""

    sizes: Int[Tensor, "R"]
    reasons: tuple[str, ...]


Policy = Callable[[DecodeState], Proposal]
"""Chooses the sizes of the next groups of the rows still running (`state.running`)."""


def checked(policy: Policy, largest: int) -> Policy:
    """Return a policy of one's own, whose every answer is checked before it is followed.

    It raises `UsageError` for what is no `Proposal` of a size from 1 to `largest` for each row.
    """

    def propose(state: DecodeState) -> Proposal:
        rows, found = len(state.running), policy(state)
        try:
            sizes, reasons = found
            right = len(reasons) == rows and tuple(sizes.shape) == (rows,)
            right = right and not (sizes.is_floating_point() or sizes.dtype == torch.bool)
            right = right and all(1 <= size <= largest for size in sizes.tolist())
        except (TypeError, ValueError, AttributeError):
            right = False
        if not right:
            raise UsageError(
                f"the policy returned {str(found)[:80]!r}; it returns a Proposal: a tensor of "
                f"{rows} whole numbers from 1 to {largest}, and a reason for each"
            )
        return Proposal(sizes.long(), tuple(map(str, reasons)))

    return propose


def fixed(group_size: int, reason: str = AS_ASKED) -> Policy:
    """Propose one group size for every row and step; 1 is autoregressive."""

    def propose(state: DecodeState) -> Proposal:
        rows = len(state.running)
        return Proposal(torch.full((rows,), group_size), (reason,) * rows)

    return propose


def phase(largest: int, sure_from: float = SURE) -> Policy:
    """Small groups at the start and where the model hesitated, larger ones where it was sure; 1 to
    `largest` tokens.

    A sentence begins with one token. After a group that was kept whole and whose tokens are
    together at least `sure_from` probable the next one is twice as large; after any other it is
    half of the last one.
    """

    def of_row(hypothesis: Hypothesis) -> tuple[int, str]:
        last = _proposed(hypothesis)
        if last is None:
            return 1, "a sentence begins with one token"
        if len(last.tokens) < last.group_size:
            return max(
                1, last.group_size // 2
            ), f"only {len(last.tokens)} of {last.group_size} tokens were kept: K is halved"
        if last.confidence < sure_from:
            return max(
                1, last.group_size // 2
            ), f"the last group had probability {last.confidence:.2f}: K is halved"
        return min(
            largest, 2 * last.group_size
        ), f"the last group had probability {last.confidence:.2f}: K is doubled"

    def propose(state: DecodeState) -> Proposal:
        sizes, reasons = zip(*(of_row(hypothesis) for hypothesis in state.running), strict=True)
        return Proposal(torch.tensor(sizes), reasons)

    return propose


def _proposed(hypothesis: Hypothesis) -> Group | None:
    """Return the last group of a text; None where there is none but a prefix, which no policy
    proposed.
    """
    last = hypothesis.groups[-1] if hypothesis.groups else None
    return last if last is not None and last.reason else None


def cost_model(costs: StepCosts, kept: KeptStatistics, group_sizes: Sequence[int]) -> Policy:
    """The size that writes the most tokens a millisecond, for all rows of the step alike.

    What a step costs was measured (`costs`, by rows and size); how much of a group is kept is
    expected from what was kept so far (`kept`, which learns from every step).
    """

    def propose(state: DecodeState) -> Proposal:
        rows = len(state.running)
        lasts = [(_proposed(row), row.began) for row in state.running]
        kept.learn([last for last, began in lasts if last and last.step + began == state.step - 1])
        expected = {size: kept.expected(size) for size in group_sizes}
        prices = {size: costs.milliseconds(rows, size) for size in group_sizes}
        best = max(group_sizes, key=lambda size: (expected[size] / prices[size], -size))
        reason = (
            f"{expected[best]:.2f} tokens expected in {prices[best]:.1f} ms, the most a millisecond"
        )
        return Proposal(torch.full((rows,), best), (reason,) * rows)

    return propose
