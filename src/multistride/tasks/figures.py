"""Figures of a classifier: accuracy, F1, log-loss, calibration, confusion, by class and by length.

Macro F1 is the mean of the classes' own; a class that was neither there nor answered counts
nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistride.decode.choosing.calibration import calibration_error
from multistride.tasks.task import Answer

QUARTILES = 4


def class_metrics(
    answers: Sequence[Answer], labels: Sequence[str], classes: Sequence[str]
) -> dict[str, float]:
    """Shares are 0–1, log-loss in nats; the calibration error is the expected one of the answered
    class.
    """
    right = np.array([answer.text == label for answer, label in zip(answers, labels, strict=True)])
    sure = np.array([answer.facts["probability"] for answer in answers])
    of_label = np.array(
        [
            answer.facts["probabilities"][label]
            for answer, label in zip(answers, labels, strict=True)
        ]
    )
    rows = by_class(confusion(answers, labels, classes), classes)
    scores = [row["f1"] for row in rows if row["records"] or row["answered"]]
    return {
        "accuracy": float(right.mean()),
        "macro_f1": float(np.mean(scores)),
        "log_loss": float(-np.log(np.maximum(of_label, 1e-12)).mean()),
        "calibration_error": calibration_error(sure, right),
    }


def confusion(
    answers: Sequence[Answer], labels: Sequence[str], classes: Sequence[str]
) -> NDArray[np.int64]:
    """How often each class [row] was answered as each [column]."""
    places = {name: place for place, name in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for answer, label in zip(answers, labels, strict=True):
        matrix[places[label], places[answer.text]] += 1
    return matrix


def by_class(matrix: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of every class; 0 where nothing was answered or there."""
    rows = []
    for place, name in enumerate(classes):
        hit, there, answered = (
            int(n) for n in (matrix[place, place], matrix[place].sum(), matrix[:, place].sum())
        )
        shares = {
            "precision": hit / answered if answered else 0.0,
            "recall": hit / there if there else 0.0,
            "f1": 2 * hit / (there + answered) if there + answered else 0.0,
        }
        rows.append({"class": name, "records": there, "answered": answered, **shares})
    return rows


def by_length(right: Sequence[bool], words: Sequence[int]) -> list[dict[str, Any]]:
    """Accuracy in quarters of the records by their number of words, the shortest first."""
    order = np.argsort(np.asarray(words), kind="stable")
    return [
        {
            "words_from": int(np.asarray(words)[part].min()),
            "words_to": int(np.asarray(words)[part].max()),
            "records": len(part),
            "accuracy": float(np.asarray(right)[part].mean()),
        }
        for part in np.array_split(order, QUARTILES)
        if len(part)
    ]


def classification_details(
    answers: Sequence[Answer], labels: Sequence[str], words: Sequence[int], classes: Sequence[str]
) -> dict[str, Any]:
    """What a result file has beside the figures."""
    matrix = confusion(answers, labels, classes)
    right = [answer.text == label for answer, label in zip(answers, labels, strict=True)]
    return {
        "classes": list(classes),
        "confusion": matrix.tolist(),
        "by_class": by_class(matrix, classes),
        "by_length": by_length(right, words),
    }
