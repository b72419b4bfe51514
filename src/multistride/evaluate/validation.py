"""Quality measured during training; `train` itself never imports decoding."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from multistride.data.batch import PreparedData
from multistride.data.labelled import LabelledDocuments
from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.engines.eager import EagerStepModel
from multistride.metrics.quality import check_tokenizer, measure_quality
from multistride.model.transformer import Transformer
from multistride.tasks.classification.classifier import Classifier
from multistride.train.loop import Validate

logger = logging.getLogger(__name__)


def _without_blanks(texts: Sequence[str]) -> bool:
    """Return whether most characters are those of Chinese or Japanese."""
    letters = "".join(texts)
    found = sum(
        "\u3040" <= letter <= "\u30ff" or "\u4e00" <= letter <= "\u9fff" for letter in letters
    )
    return found > len(letters) / 2


def validator(
    data: PreparedData, group_sizes: tuple[int, ...], examples: int, tokenize: str = "13a"
) -> Validate | None:
    """Return what measures the first `examples` of the validation data; None where the loss does.

    Texts without sources are judged by their loss, and so is everything with 0 examples. Raises
    `UsageError` for a tokenizer of BLEU that sacreBLEU does not have.
    """
    if not examples or data.causal:
        return None
    if data.classes:
        return _label_validator(data, group_sizes, examples)
    return _pair_validator(data, group_sizes, examples, tokenize)


def _label_validator(data: PreparedData, group_sizes: tuple[int, ...], documents: int) -> Validate:
    """Return a function that classifies the first validation documents by class names.

    It returns accuracy by group size, and their mean as `score`.
    """
    split = data.split("validation")
    assert isinstance(split, LabelledDocuments)
    rows = range(min(documents, len(split)))
    texts = data.vocabulary.decode_all([split.document(row).tolist() for row in rows])
    labels = torch.from_numpy(split.labels[: len(rows)].copy())

    def validate(model: Transformer) -> dict[str, float]:
        shape = model.config.classifier
        assert shape is not None and shape.kind == "labels"  # noqa: PT018
        accuracy = {}
        for group_size in group_sizes:
            classifier = Classifier(model, data.vocabulary, shape, group_size=group_size)
            right = classifier.log_probabilities(texts).argmax(1) == labels
            accuracy[f"accuracy_k{group_size}"] = float(right.float().mean())
        return {**accuracy, "score": sum(accuracy.values()) / len(accuracy)}

    return validate


def _pair_validator(
    data: PreparedData, group_sizes: tuple[int, ...], sentences: int, tokenize: str
) -> Validate:
    """Return a function that decodes the first `sentences` validation pairs at each group size.

    It returns BLEU by group size, and their mean as `score`.
    """
    check_tokenizer(tokenize)
    split = data.pairs("validation")
    rows = range(min(sentences, len(split)))
    sources = [split.source(row).tolist() for row in rows]
    references = data.vocabulary.decode_all([split.target(row).tolist() for row in rows])
    if tokenize == "13a" and _without_blanks(references):
        logger.warning(
            "the validation texts have no blanks between words, so BLEU counts a text as one word: "
            "set training.tokenize to zh (Chinese) or char"
        )

    @torch.inference_mode()
    def validate(model: Transformer) -> dict[str, float]:
        engine = EagerStepModel(model)
        scores = {}
        for group_size in group_sizes:
            options = DecodeOptions(group_size=group_size, batch_size=64)
            hypotheses = decode_corpus(engine, sources, options)
            texts = data.vocabulary.decode_all([hypothesis.tokens for hypothesis in hypotheses])
            scores[f"bleu_k{group_size}"] = measure_quality(texts, references, tokenize).bleu
        return {**scores, "score": sum(scores.values()) / len(scores)}

    return validate
