"""Accuracy, F1, log-loss and confusion of a classifier: overall, by class and by length.

Shapes: N records, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistride.metrics.calibration import calibration_error

QUARTILES = 4


def class_metrics(
    probabilities: NDArray[np.float64], labels: Sequence[str], classes: Sequence[str]
) -> dict[str, float]:
    """Return accuracy, macro F1, log-loss (nats) and calibration error of probabilities [N, C].

    Macro F1 is the mean over classes; a class that is neither a label nor answered does not count.
    """
    indices = _indices(labels, classes)
    answered = probabilities.argmax(1)
    right = answered == indices
    rows = by_class(confusion(answered, indices, len(classes)), classes)
    scores = [row["f1"] for row in rows if row["records"] or row["answered"]]
    of_label = probabilities[np.arange(len(indices)), indices]
    return {
        "accuracy": float(right.mean()),
        "macro_f1": float(np.mean(scores)),
        "log_loss": float(-np.log(np.maximum(of_label, 1e-12)).mean()),
        "calibration_error": calibration_error(probabilities.max(1), right),
    }


def class_details(
    probabilities: NDArray[np.float64],
    labels: Sequence[str],
    words: Sequence[int],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Return the confusion matrix and the figures by class and by length (`words`), as JSON."""
    indices = _indices(labels, classes)
    answered = probabilities.argmax(1)
    matrix = confusion(answered, indices, len(classes))
    return {
        "classes": list(classes),
        "confusion": matrix.tolist(),
        "by_class": by_class(matrix, classes),
        "by_length": by_length(answered == indices, words),
    }


def confusion(
    answered: NDArray[np.int64], labels: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Return how often each class (row) was answered as each class (column)."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (labels, answered), 1)
    return matrix


def by_class(matrix: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of every class; 0 where they are not defined."""
    rows = []
    for index, name in enumerate(classes):
        hit, there, answered = (
            int(n) for n in (matrix[index, index], matrix[index].sum(), matrix[:, index].sum())
        )
        shares = {
            "precision": hit / answered if answered else 0.0,
            "recall": hit / there if there else 0.0,
            "f1": 2 * hit / (there + answered) if there + answered else 0.0,
        }
        rows.append({"class": name, "records": there, "answered": answered, **shares})
    return rows


def by_length(right: NDArray[np.bool_], words: Sequence[int]) -> list[dict[str, Any]]:
    """Return the accuracy in quarters of the records by number of words, the shortest first."""
    counts = np.asarray(words)
    order = np.argsort(counts, kind="stable")
    return [
        {
            "words_from": int(counts[part].min()),
            "words_to": int(counts[part].max()),
            "records": len(part),
            "accuracy": float(right[part].mean()),
        }
        for part in np.array_split(order, QUARTILES)
        if len(part)
    ]


def _indices(labels: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    places = {name: index for index, name in enumerate(classes)}
    return np.array([places[label] for label in labels], dtype=np.int64)
