"""Which class a document belongs to: by a pooled head on the encoder, or by names of classes scored
as targets.

A record has `text` and, to be measured, `label`. Documents of any length are read in windows.

Shapes: B documents, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from multistride.data.vocab import Vocabulary
from multistride.decode.options import check_group_size
from multistride.decode.score import score_choices
from multistride.device import pick_device
from multistride.errors import DataError, UsageError
from multistride.metrics.confusion import class_details, class_metrics
from multistride.model.classifier import aggregated, check_classes
from multistride.model.config import ClassifierConfig
from multistride.model.transformer import Transformer
from multistride.model.weights import TEMPERATURE, load_calibration, load_model
from multistride.tasks.documents import read_windows, tokens_of, windows_of
from multistride.tasks.task import (
    Answer,
    Example,
    Opened,
    Record,
    RecordError,
    TaskRequest,
    text_field,
)

LABELS_SHOWN = 30


class ClassTemperature(BaseModel):
    """What `multistride calibrate` writes into a classifier's directory. Frozen; unknown keys are
    errors.

    Log-probabilities divided by `temperature` are as sure as they are right. The errors are
    expected calibration errors, on records that the temperature was not fitted on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model_sha256: str
    source_sha256: str
    records: int
    group_size: int
    temperature: float = Field(gt=0)
    error_before: float
    error_after: float
    log_loss_before: float
    log_loss_after: float


@dataclass(frozen=True)
class Classifier:
    """A model that knows classes. `group_size` is that of the names it scores; a pooled head has no
    use for it.
    """

    model: Transformer
    vocabulary: Vocabulary
    shape: ClassifierConfig
    temperature: float = 1.0
    group_size: int = 1
    batch_size: int = 32

    @classmethod
    def load(
        cls,
        directory: Path | str,
        device: str = "auto",
        group_size: int = 1,
        batch_size: int = 32,
        calibrated: bool = True,
    ) -> Classifier:
        """Read a model directory and, if `calibrated`, the temperature that was measured for this
        group size, if any.

        Raises `DataError` if it is damaged, `UsageError` if it is no classifier or does not write
        such groups.
        """
        model, vocabulary = load_model(directory, pick_device(device))
        shape = model.config.classifier
        if shape is None:
            raise UsageError(
                f"{directory} is no classifier: give one that was trained with `classifier` in its configuration"
            )
        if shape.kind == "labels":
            check_group_size(group_size, model.config)
        elif group_size != 1:
            raise UsageError(
                f"--group-size is {group_size}; {directory} has a pooled head, which writes nothing: give 1"
            )
        measured = (
            load_calibration(directory, ClassTemperature, TEMPERATURE) if calibrated else None
        )
        fits = measured is not None and measured.group_size == group_size
        temperature = measured.temperature if measured is not None and fits else 1.0
        return cls(model, vocabulary, shape, temperature, group_size, batch_size)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of all probabilities."""
        return self.shape.classes

    @torch.inference_mode()
    def log_probabilities(self, texts: Sequence[str]) -> Float[Tensor, "B C"]:
        """The natural log-probability of every class for every text, whatever its length.

        Raises `DataError` for a text that is not UTF-8.
        """
        if not texts:
            return torch.zeros(0, len(self.classes))
        read = self._vectors if self.shape.kind == "pooled" else self._name_scores
        beside: list[Tensor] = []
        documents = self._read_wide(tokens_of(self.vocabulary, texts, self.shape), beside)
        windows = windows_of(documents, self.shape)
        rows, document = read_windows(windows, read, self.model.config.pad_token, self.batch_size)
        if self.model.classifier is not None:
            scores = self.model.classifier(rows, document.to(rows.device), len(texts))
            scores = scores + torch.cat(beside) if beside else scores
        else:
            scores = aggregated(rows, document, len(texts), self.shape.windows)
        together: Tensor = (scores.float().cpu() / self.temperature).log_softmax(-1)
        return together

    def _read_wide(
        self, documents: Iterable[list[int]], beside: list[Tensor]
    ) -> Iterator[list[int]]:
        """Hand documents on; `beside` gets the logits [1, C] of each if there is a wide path: it
        reads them whole.
        """
        wide = self.model.classifier.wide if self.model.classifier is not None else None
        for tokens in documents:
            if wide is not None:
                read = torch.tensor(tokens, dtype=torch.long, device=wide.known.device)
                beside.append(wide(read, torch.zeros_like(read), 1))
            yield tokens

    def _vectors(self, tokens: Int[Tensor, "R S"], lengths: Int[Tensor, "R"]) -> Tensor:
        assert self.model.classifier is not None
        device = next(self.model.parameters()).device
        encoded, _ = self.model.encode(tokens.to(device), lengths.to(device))
        vectors: Tensor = self.model.classifier.pool(encoded, lengths.to(device))
        return vectors

    def _name_scores(self, tokens: Int[Tensor, "R S"], lengths: Int[Tensor, "R"]) -> Tensor:
        names = self.vocabulary.encode_targets(list(self.classes))
        sources = [
            row[:length].tolist() for row, length in zip(tokens, lengths.tolist(), strict=True)
        ]
        return score_choices(self.model, sources, names, self.group_size).log_softmax(-1)


class ClassificationTask:
    """A document to the name of its class."""

    name = "classification"

    def __init__(self, classes: Sequence[str], text: str = "text", label: str = "label") -> None:
        self.classes, self._known = tuple(classes), frozenset(classes)
        self._text, self._label = text, label

    def example(self, record: Record, line: int) -> Example:
        """The text and, if there is one, the label. An empty document is an error, and so is an
        unknown label.
        """
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
        """The most probable class, with the probabilities of all."""
        shares = dict(zip(self.classes, np.exp(np.asarray(output)).tolist(), strict=True))
        best = self.classes[int(np.argmax(output))]
        return Answer(best, {"probability": shares[best], "probabilities": shares})

    def metrics(self, answers: Sequence[Answer], records: Sequence[Record]) -> dict[str, float]:
        """Accuracy, macro F1, log-loss (nats) and calibration error. Raises `DataError` where a
        label is missing.
        """
        return class_metrics(self._probabilities(answers), self._labels(records), self.classes)

    def details(self, answers: Sequence[Answer], records: Sequence[Record]) -> dict[str, Any]:
        """Confusion matrix, figures by class and by length of the document."""
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
        if not all(self._label in record for record in records):
            raise DataError(
                f"a record has no {self._label!r}, and answers are measured against it: add the labels"
            )
        return [record[self._label].strip() for record in records]


def open_classification(request: TaskRequest) -> Opened[Sequence[float]]:
    """A classifier behind the task. Raises as `Classifier.load` does, and `UsageError` for another
    mode or engine.
    """
    for option, value, allowed in (
        ("mode", request.mode, "fast"),
        ("engine", request.engine, "eager"),
    ):
        if value not in (allowed, "auto"):
            raise UsageError(
                f"--{option} is {value}; a classifier knows only {allowed}: leave it out"
            )
    if request.beam > 1:
        raise UsageError(
            f"--beam is {request.beam}, and a classifier searches for nothing: leave it out"
        )
    classifier = Classifier.load(
        request.model, request.device, request.group_size, request.batch_size
    )
    return opened_classifier(classifier)


def opened_classifier(
    classifier: Classifier, text: str = "text", label: str = "label"
) -> Opened[Sequence[float]]:
    """The task of a loaded classifier; `text` and `label` are the fields of its records."""
    task = ClassificationTask(classifier.classes, text, label)

    def solve(examples: Sequence[Example]) -> list[Sequence[float] | RecordError]:
        return list(classifier.log_probabilities([example.source for example in examples]).tolist())

    return Opened(task, solve, task.details)


def check_class_list(
    classifier: Classifier, path: Path, lines: Iterable[bytes], directory: Path
) -> None:
    """Raise `DataError` naming the labels that differ if a list of classes, one a line, is not the
    classifier's.
    """
    listed = [line.decode("utf-8", "replace").strip() for line in lines]
    check_classes(
        classifier.classes, [label for label in listed if label], str(directory), str(path)
    )
