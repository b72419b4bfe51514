"""Distance between confidence and accuracy, and the temperature that closes it.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599).

Shapes: N predictions, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Equal bins of confidence in the expected calibration error, as in Guo et al. 2017, section 5."""

HOTTEST = 20.0
"""The highest temperature, and its inverse the lowest: beyond it a model is certain or random."""

HALVINGS = 50


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error of predictions of some confidence [N], 0-1.

    It is the mean distance of confidence and accuracy over bins of confidence, weighted by size.
    """
    if not len(right):
        return 0.0
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    distances = np.bincount(bins, confidence - right, minlength=BINS)
    return float(np.abs(distances).sum() / counts.sum())


def fitted_temperature(
    scores: NDArray[np.float64], labels: Sequence[int] | NDArray[np.int64]
) -> float:
    """Return the temperature that makes the labels [N] most probable under log-probabilities [N,
    C].

    The log-loss is convex in the inverse of the temperature, so bisection finds where its slope
    is zero.
    """
    labels = np.asarray(labels)
    low, high = 1 / HOTTEST, HOTTEST
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        shares = np.exp(normalised(scores * middle))
        slope = float(((shares * scores).sum(1) - scores[np.arange(len(labels)), labels]).mean())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return round(float(1 / (low * high) ** 0.5), 4)


def at_an_edge(temperature: float) -> bool:
    """Return whether a fitted temperature is the lowest or highest there is, and so no fit: all
    labels were right, say.
    """
    return not 1.001 / HOTTEST < temperature < HOTTEST / 1.001


def normalised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-probabilities [N, C] that belong to scores [N, C]."""
    shifted = scores - scores.max(1, keepdims=True)
    shares: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return shares


def class_calibration_error(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the calibration error of the most probable class under scores [N, C]."""
    shares = np.exp(normalised(scores))
    return calibration_error(shares.max(1), shares.argmax(1) == labels)


def log_loss(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the mean negative log-probability of the labels [N] under scores [N, C], in nats."""
    return float(-normalised(scores)[np.arange(len(labels)), labels].mean())
