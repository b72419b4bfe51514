"""Calibration: confidence in the tokens of a group against how often they are right.

How sure a model is of the token it picked is not how often it is right, and how far the two lie
apart depends on the place in the group. So every place of every group size has a temperature and a
shift of its own, for the log-odds of the token that was picked: sure = sigmoid(log-odds /
temperature + shift). That is temperature scaling (Guo et al. 2017, arXiv 1706.04599, section 4.2)
of the two outcomes "this token is right" and "it is not", for which the probability of the token
alone is enough, with the constant of Platt (1999, "Probabilistic outputs for support vector
machines"): a temperature cannot make a token of 30 % that is mostly right more probable than 50 %.

A place is judged where all places of its group before it were right, so the product over a prefix
is how probable the whole prefix is right: what adaptive mode asks.

Shapes: R rows, K tokens of a group, N groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from multistride.decode.accept import Sureness
from multistride.model.config import Layout

Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(ge=0)]
Scale = tuple[float, float]
"""A temperature and a shift."""

CERTAIN = 0.0
"""The temperature of a place that was never wrong: the first of a group in the lookahead layout,
judged by K=1."""

NEWTON_STEPS = 30

HOTTEST = 20.0
"""The largest temperature, and its inverse the smallest: a place beyond it says nothing, or is
certain."""

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Where it is counted how many tokens adaptive mode keeps."""


class PlaceCalibration(BaseModel):
    """One place of the groups of one size in one layout; `place` counts from 1.

    `right` is the share of right tokens and `confidence` their mean probability, over `tokens`
    groups whose places before were right. The errors are expected calibration errors; they and the
    shares are those of sentences that the temperature and the shift were not fitted on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout
    group_size: int
    place: int
    temperature: Temperature
    shift: float
    tokens: int
    right: Share
    confidence: Share
    error_before: Share
    error_after: Share


class KeptShares(BaseModel):
    """At a threshold: of the groups that keep place p + 1 the share that keep place p + 2, for
    every p.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout
    group_size: int
    threshold: Share
    shares: tuple[Share, ...]


class Calibration(BaseModel):
    """The calibration.json of a model directory. Frozen; unknown keys are errors.

    `truth` says what counts as right: what the model's own K=1 writes, or a reference.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_sha256: str
    truth: Literal["own-k1", "reference"]
    sentences: int
    source_sha256: str
    places: tuple[PlaceCalibration, ...]
    kept: tuple[KeptShares, ...]

    def sureness(self, layout: Layout) -> Sureness | None:
        """Corrects log-probabilities in this layout, a size not measured as the next larger; None
        if not known.
        """
        table = {
            size: [
                (row.temperature, row.shift)
                for row in self.places
                if (row.layout, row.group_size) == (layout, size)
            ]
            for size in {row.group_size for row in self.places if row.layout == layout}
        }
        return corrector(table) if table else None

    def right_shares(self, layout: Layout, group_size: int) -> list[float]:
        """The share of right tokens at places 2 ... `group_size`, given that those before are; []
        if not known.
        """
        rows = [row for row in self.places if (row.layout, row.group_size) == (layout, group_size)]
        return [row.right for row in rows[1:]]

    def kept_at(self, layout: Layout, group_size: int, threshold: float) -> list[float] | None:
        """The shares that adaptive mode keeps at the measured threshold nearest to this one; None
        if not known.
        """
        rows = [row for row in self.kept if (row.layout, row.group_size) == (layout, group_size)]
        if not rows:
            return None
        return list(min(rows, key=lambda row: abs(row.threshold - threshold)).shares)


def corrector(scales: Mapping[int, Sequence[Scale]]) -> Sureness:
    """Correct log-probabilities by the temperature and shift of their group's size and their place
    in it.
    """
    largest = max(scales)
    table = torch.zeros(largest + 1, largest, 2)
    for size in range(1, largest + 1):
        measured = scales[min(known for known in scales if known >= size)]
        table[size, :size] = torch.tensor(measured[:size])

    def correct(
        log_probabilities: Float[Tensor, "R K"], sizes: Int[Tensor, "R"]
    ) -> Float[Tensor, "R K"]:
        temperatures, shifts = table[sizes, : log_probabilities.shape[1]].unbind(-1)
        return scaled(log_probabilities, temperatures, shifts)

    return correct


def scaled(
    log_probabilities: Float[Tensor, "R K"],
    temperatures: Float[Tensor, "R K"],
    shifts: Float[Tensor, "R K"],
) -> Float[Tensor, "R K"]:
    """The logarithm of sigmoid(log-odds / temperature + shift); 0 where the temperature is
    `CERTAIN`.
    """
    least = torch.finfo(torch.float32).eps
    inner = log_probabilities.clamp(max=-least)
    odds = inner - torch.log(-torch.expm1(inner))
    corrected = torch.nn.functional.logsigmoid(odds / temperatures.clamp(min=least) + shifts)
    return corrected.masked_fill(temperatures == CERTAIN, 0.0)


def fitted(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> Scale:
    """The temperature and shift under which tokens of these probabilities [N] are most probably
    right where they are.

    Newton's method on the negative log-likelihood, which is convex in (1 / temperature, shift); one
    token's worth of doubt pulls both towards (1, 0), so a few tokens, or none, give no extremes.
    `CERTAIN` if no token is wrong.
    """
    if len(right) and right.all():
        return CERTAIN, 0.0
    inner = np.clip(confidence, 1e-7, 1 - 1e-7)
    features = np.stack([np.log(inner / (1 - inner)), np.ones(len(inner))], axis=1)
    start = np.array([1.0, 0.0])
    weights = start.copy()
    for _ in range(NEWTON_STEPS):
        sure = 1 / (1 + np.exp(-np.clip(features @ weights, -30, 30)))
        gradient = features.T @ (sure - right) + weights - start
        curvature = (features * (sure * (1 - sure))[:, None]).T @ features + np.eye(2)
        weights = weights - np.linalg.solve(curvature, gradient)
        weights[0] = np.clip(weights[0], 1 / HOTTEST, HOTTEST)
    return round(float(1 / weights[0]), 4), round(float(weights[1]), 4)
