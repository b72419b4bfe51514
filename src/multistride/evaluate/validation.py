"""What training calls to see how well the model decodes; `train` itself never imports decoding."""

from __future__ import annotations

from collections.abc import Callable

import torch

from multistride.data.batch import PreparedData
from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.engines.eager import EagerStepModel
from multistride.evaluate.quality import measure_quality
from multistride.model.transformer import Transformer


def validator(
    data: PreparedData, group_sizes: tuple[int, ...], sentences: int
) -> Callable[[Transformer], dict[str, float]]:
    """A function that decodes the first `sentences` validation pairs greedily at each group size.

    It returns BLEU by group size, and their mean as `score`.
    """
    split = data.pairs("validation")
    rows = range(min(sentences, len(split)))
    sources = [split.source(row).tolist() for row in rows]
    references = data.vocabulary.decode_all([split.target(row).tolist() for row in rows])

    @torch.inference_mode()
    def validate(model: Transformer) -> dict[str, float]:
        engine = EagerStepModel(model)
        scores = {}
        for group_size in group_sizes:
            options = DecodeOptions(group_size=group_size, batch_size=64)
            hypotheses = decode_corpus(engine, sources, options)
            texts = data.vocabulary.decode_all([hypothesis.tokens for hypothesis in hypotheses])
            scores[f"bleu_k{group_size}"] = measure_quality(texts, references).bleu
        return {**scores, "score": sum(scores.values()) / len(scores)}

    return validate
