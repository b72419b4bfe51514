"""How sure a model may be: its confidence in the tokens of a group against how often they are right.

The later a token stands in its group, the less its probability says: the model does not see what it has written
before it. So every place of every group size has a temperature of its own, which divides the log-odds of the token
that was picked: sure = sigmoid(log-odds / temperature). That is temperature scaling (Guo et al. 2017, arXiv
1706.04599, section 4.2) of the two outcomes "this token is right" and "it is not", for which the probability of the
token alone is enough.

A place is judged where all places of its group before it were right, so the product over a prefix is how probable the
whole prefix is right: what adaptive mode asks.

Shapes: R rows, K tokens of a group, N groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from multistride.decode.accept import Sureness
from multistride.decode.options import Layout

Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(ge=0)]

CERTAIN = 0.0
"""The temperature of a place that was never wrong: the first of a group in the lookahead layout, judged by K=1."""

BINS = 15
"""Equal bins of confidence in the expected calibration error, as in Guo et al. 2017, section 5."""

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Where it is counted how many tokens adaptive mode keeps."""


class PlaceCalibration(BaseModel):
    """One place of the groups of one size in one layout; `place` counts from 1.

    `right` is the share of right tokens and `confidence` their mean probability, over `tokens` groups whose places
    before were right. The errors are expected calibration errors; they and the shares are those of sentences that the
    temperature was not fitted on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout
    group_size: int
    place: int
    temperature: Temperature
    tokens: int
    right: Share
    confidence: Share
    error_before: Share
    error_after: Share


class KeptShares(BaseModel):
    """At a threshold: of the groups that keep place p + 1 the share that keep place p + 2, for every p."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout
    group_size: int
    threshold: Share
    shares: tuple[Share, ...]


class Calibration(BaseModel):
    """What `multistride calibrate` writes into a model directory. Frozen; unknown keys are errors.

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
        """Corrects log-probabilities in this layout, a size not measured as the next larger; None if not known."""
        table = {
            size: [row.temperature for row in self.places if (row.layout, row.group_size) == (layout, size)]
            for size in {row.group_size for row in self.places if row.layout == layout}
        }
        return temperate(table) if table else None

    def right_shares(self, layout: Layout, group_size: int) -> list[float]:
        """The share of right tokens at places 2 ... `group_size`, given that those before are; [] if not known."""
        rows = [row for row in self.places if (row.layout, row.group_size) == (layout, group_size)]
        return [row.right for row in rows[1:]]

    def kept_at(self, layout: Layout, group_size: int, threshold: float) -> list[float] | None:
        """The shares that adaptive mode keeps at the measured threshold nearest to this one; None if not known."""
        rows = [row for row in self.kept if (row.layout, row.group_size) == (layout, group_size)]
        if not rows:
            return None
        return list(min(rows, key=lambda row: abs(row.threshold - threshold)).shares)


def temperate(temperatures: Mapping[int, Sequence[float]]) -> Sureness:
    """Correct log-probabilities by the temperatures of their group's size and their place in it."""
    largest = max(temperatures)
    table = torch.ones(largest + 1, largest)
    for size in range(1, largest + 1):
        measured = temperatures[min(known for known in temperatures if known >= size)]
        table[size, :size] = torch.tensor(measured[:size])

    def correct(log_probabilities: Float[Tensor, "R K"], sizes: Int[Tensor, "R"]) -> Float[Tensor, "R K"]:
        return scaled(log_probabilities, table[sizes, : log_probabilities.shape[1]])

    return correct


def scaled(log_probabilities: Float[Tensor, "R K"], temperatures: Float[Tensor, "R K"]) -> Float[Tensor, "R K"]:
    """The logarithm of sigmoid(log-odds / temperature); 0 where the temperature is `CERTAIN`."""
    least = torch.finfo(torch.float32).eps
    odds = log_probabilities - torch.log(-torch.expm1(log_probabilities.clamp(max=-least)))
    corrected = torch.nn.functional.logsigmoid(odds / temperatures.clamp(min=least))
    return corrected.masked_fill(temperatures == CERTAIN, 0.0)


def fitted_temperature(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """The temperature under which tokens of these probabilities [N] are most probably right just where they are.

    The negative log-likelihood is convex in 1 / temperature, which a golden-section search finds between 1/20 and 20.
    `CERTAIN` if no token is wrong; 1 if there is no token.
    """
    if right.all():
        return CERTAIN if len(right) else 1.0
    inner = np.clip(confidence, 1e-7, 1 - 1e-7)
    signed = np.log(inner / (1 - inner)) * np.where(right, 1.0, -1.0)
    low, high, golden = math.log(0.05), math.log(20.0), (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right_side = high - golden * (high - low), low + golden * (high - low)
        if _cost(signed, left) < _cost(signed, right_side):
            high = right_side
        else:
            low = left
    return round(math.exp(-(low + high) / 2), 4)


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """The mean distance of confidence [N] and the share of right ones over bins of confidence, weighted by tokens."""
    if not len(right):
        return 0.0
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    distances = np.bincount(bins, confidence - right, minlength=BINS)
    return float(np.abs(distances).sum() / counts.sum())


def _cost(signed: NDArray[np.float64], log_inverse: float) -> float:
    """Mean negative log-likelihood of log-odds, signed by what was right, at a temperature of exp(-`log_inverse`)."""
    return float(np.logaddexp(0, -signed * math.exp(log_inverse)).mean())
