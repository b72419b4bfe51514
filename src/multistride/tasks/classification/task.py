"""Classification: a record has `text` and, to be measured, `label`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistride.decode.options import DecodeOptions
from multistride.errors import DataError, UsageError
from multistride.metrics.confusion import class_details, class_metrics
from multistride.tasks.classification.classifier import Classifier
from multistride.tasks.record import (
    Answer,
    Example,
    Opened,
    Opening,
    Record,
    RecordError,
    refuse_options,
    text_field,
)

LABELS_SHOWN = 30


class ClassificationTask:
    """A document to the name of its class."""

    name = "classification"

    def __init__(self, classes: Sequence[str], text: str = "text", label: str = "label") -> None:
        self.classes, self._known = tuple(classes), frozenset(classes)
        self._text, self._label = text, label

    def example(self, record: Record, line: int) -> Example:
        """Return the text and its label. Raises `RecordError` for an unknown label."""
        label = text_field(record, self._label, line).strip() if self._label in record else None
        if label is not None and label not in self._known:
            allowed = ", ".join(self.classes[:LABELS_SHOWN]) + (
                " ..." if len(self.classes) > LABELS_SHOWN else ""
            )
            raise RecordError(
                line, f"the label {label!r} was not seen in training; there are {allowed}"
            )
        return Example(line, text_field(record, self._text, line), label)

    def answer(self, output: Sequence[float], record: Record) -> Answer:
        """Return the most probable class, with the probabilities of all."""
        shares = dict(zip(self.classes, np.exp(np.asarray(output)).tolist(), strict=True))
        best = self.classes[int(np.argmax(output))]
        return Answer(best, {"probability": shares[best], "probabilities": shares})

    def refuse(self, records: Iterable[Record]) -> None:
        """Raise `DataError` for a record without a label."""
        bare = next((record for record in records if self._label not in record), None)
        if bare is not None:
            raise DataError(
                f"a record has {', '.join(bare)} and no {self._label!r}, which answers are "
                "measured against: add the labels"
            )

    def metrics(self, answers: Sequence[Answer], records: Sequence[Record]) -> dict[str, float]:
        """Return accuracy, macro F1, log-loss and calibration error of labelled records."""
        return class_metrics(self._probabilities(answers), self._labels(records), self.classes)

    def details(self, answers: Sequence[Answer], records: Sequence[Record]) -> dict[str, Any]:
        """Return the confusion matrix, and figures by class and by length of the document."""
        words = [len(record[self._text].split()) for record in records]
        return class_details(
            self._probabilities(answers), self._labels(records), words, self.classes
        )

    def _probabilities(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        rows = [
            [answer.facts["probabilities"][name] for name in self.classes] for answer in answers
        ]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.classes))

    def _labels(self, records: Sequence[Record]) -> list[str]:
        return [record[self._label].strip() for record in records]


def open_classification(opening: Opening) -> Opened[Sequence[float]]:
    """Return a classifier behind the task.

    Raises as `Classifier.load` does, and `UsageError` for another engine.
    """
    if opening.engine not in ("eager", "auto"):
        raise UsageError(
            f"--engine is {opening.engine}; a classifier knows only eager: leave it out"
        )
    return opened_classifier(Classifier.load(opening.model, opening.device))


def opened_classifier(
    classifier: Classifier, text: str = "text", label: str = "label"
) -> Opened[Sequence[float]]:
    """Return the task of a loaded classifier; `text` and `label` are fields of its records."""
    task = ClassificationTask(classifier.classes, text, label)

    def settle(way: DecodeOptions) -> DecodeOptions:
        taken = ("group_size", "batch_size")
        refuse_options(way, taken, "a classifier decodes nothing (it scores labels by group size)")
        classifier.at(way.group_size)
        return way

    def solve(
        examples: Sequence[Example], way: DecodeOptions
    ) -> list[Sequence[float] | RecordError]:
        chosen = classifier.at(way.group_size, way.batch_size)
        texts = [example.source for example in examples]
        return list(chosen.log_probabilities(texts).tolist())

    return Opened(task, solve, settle, details=task.details, refuse=task.refuse)
