"""A model that knows classes: a pooled head on the encoder, or names of classes scored as targets.

Documents of any length are read in windows. Shapes: B documents, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from multistride.data.vocab import Vocabulary
from multistride.decode.options import check_group_size
from multistride.decode.score import score_choices
from multistride.device import pick_device
from multistride.errors import UsageError
from multistride.model.classifier import aggregated, check_classes
from multistride.model.config import ClassifierConfig
from multistride.model.directory import TEMPERATURE, load_calibration
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model
from multistride.tasks.classification.documents import read_windows, tokens_of, windows_of


class ClassTemperature(BaseModel):
    """The temperature that `multistride calibrate` writes into a classifier's directory.

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
    measured: ClassTemperature | None = None

    def __repr__(self) -> str:
        kind = f"{self.shape.kind}, {len(self.shape.classes)} classes"
        return f"{type(self).__name__}({kind}: {self.model.config.summary})"

    @classmethod
    def load(
        cls,
        directory: Path | str,
        device: str = "auto",
        group_size: int = 1,
        batch_size: int = 32,
        calibrated: bool = True,
    ) -> Classifier:
        """Read a model directory and, if `calibrated`, the temperature measured on it, if any.

        Raises `DataError` if it is damaged, `UsageError` if it is no classifier or does not write
        groups of this size.
        """
        model, vocabulary = load_model(directory, pick_device(device))
        shape = model.config.classifier
        if shape is None:
            raise UsageError(
                f"{directory} is no classifier: give one that was trained with `classifier` in its "
                "configuration"
            )
        measured = (
            load_calibration(directory, ClassTemperature, TEMPERATURE) if calibrated else None
        )
        return cls(model, vocabulary, shape, measured=measured).at(group_size, batch_size)

    def at(self, group_size: int, batch_size: int | None = None) -> Classifier:
        """Return the same classifier for another group size, at the temperature measured for it.

        Raises `UsageError` for a size that it does not write.
        """
        if self.shape.kind == "labels":
            check_group_size(group_size, self.model.config)
        elif group_size != 1:
            raise UsageError(
                f"--group-size is {group_size}; this classifier has a pooled head, which writes "
                "nothing: give 1"
            )
        fits = self.measured is not None and self.measured.group_size == group_size
        return replace(
            self,
            temperature=self.measured.temperature if self.measured and fits else 1.0,
            group_size=group_size,
            batch_size=batch_size or self.batch_size,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of all probabilities."""
        return self.shape.classes

    @torch.inference_mode()
    def log_probabilities(self, texts: Sequence[str]) -> Float[Tensor, "B C"]:
        """Return the natural log-probability of every class for every text, of any length.

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
        """Yield documents; `beside` gets the logits [1, C] of each if there is a wide path."""
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
        names = self.vocabulary.encode_target(list(self.classes))
        sources = [
            row[:length].tolist() for row, length in zip(tokens, lengths.tolist(), strict=True)
        ]
        return score_choices(self.model, sources, names, self.group_size).log_softmax(-1)


def check_class_list(
    classifier: Classifier, path: Path, lines: Iterable[bytes], directory: Path
) -> None:
    """Raise `DataError` naming labels by which a list of classes differs from the model's."""
    listed = [line.decode("utf-8", "replace").strip() for line in lines]
    check_classes(
        classifier.classes, [label for label in listed if label], str(directory), str(path)
    )
