"""`multistride calibrate` for classifiers: one temperature under which probabilities are as sure as
they are right.

Source: temperature scaling, Guo et al. 2017 (arXiv 1706.04599, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multistride.data.corpus import read_lines
from multistride.decode.choosing.calibration import HOTTEST, calibration_error
from multistride.errors import DataError
from multistride.files import sha256
from multistride.model.weights import WEIGHTS
from multistride.tasks.classification import Classifier, ClassTemperature, opened_classifier
from multistride.tasks.task import read_records, solved

LEAST_RECORDS = 20
HALVINGS = 50


def calibrate_classifier(
    classifier: Classifier,
    directory: Path,
    source: Path,
    report: Callable[[str], None] = lambda line: None,
) -> ClassTemperature:
    """Fit the temperature on every other record of `source` and judge it on the rest.

    Raises `DataError` for a file that cannot be read or has fewer than 20 records with a known
    label; others are reported.
    """
    assert classifier.temperature == 1.0, "it is fitted on probabilities as they come"
    opened = opened_classifier(classifier)
    rows, labels = [], []
    for each in solved(opened, read_records(read_lines(source))):
        if each.answer is None or each.record is None or "label" not in each.record:
            report(str(each.problem or f"line {each.line}: it has no 'label'"))
            continue
        rows.append([each.answer.facts["probabilities"][name] for name in classifier.classes])
        labels.append(classifier.classes.index(each.record["label"].strip()))
    if len(rows) < LEAST_RECORDS:
        raise DataError(
            f"{source} has {len(rows)} records with a known label; {LEAST_RECORDS} are needed"
        )
    scores, wanted = np.log(np.maximum(np.array(rows), 1e-30)), np.array(labels)
    temperature = fitted_temperature(scores[::2], wanted[::2])
    judged, truth = scores[1::2], wanted[1::2]
    return ClassTemperature(
        model_sha256=sha256(directory / WEIGHTS),
        source_sha256=sha256(source),
        records=len(rows),
        group_size=classifier.group_size,
        temperature=temperature,
        error_before=_error(judged, truth),
        error_after=_error(judged / temperature, truth),
        log_loss_before=_log_loss(judged, truth),
        log_loss_after=_log_loss(judged / temperature, truth),
    )


def fitted_temperature(
    scores: NDArray[np.float64], labels: Sequence[int] | NDArray[np.int64]
) -> float:
    """The temperature under which the labels [N] are most probable, given log-probabilities [N, C].

    The log-loss is convex in the inverse of the temperature, so its slope is halved down to zero.
    """
    labels = np.asarray(labels)
    low, high = 1 / HOTTEST, HOTTEST
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        shares = np.exp(_normalised(scores * middle))
        slope = float(((shares * scores).sum(1) - scores[np.arange(len(labels)), labels]).mean())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return round(float(1 / (low * high) ** 0.5), 4)


def _normalised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = scores - scores.max(1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return normalised


def _error(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    shares = np.exp(_normalised(scores))
    return calibration_error(shares.max(1), shares.argmax(1) == labels)


def _log_loss(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    return float(-_normalised(scores)[np.arange(len(labels)), labels].mean())
