"""Decoding many texts: in batches of similar length, the order restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from multistride.decode.batch import decode_batch
from multistride.decode.beam import search_batch
from multistride.decode.hypothesis import Hypothesis
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import Plan, planned
from multistride.decode.step import M, StepModel
from multistride.model.config import TransformerConfig


def decode_corpus(
    engine: StepModel[M],
    sources: Sequence[Sequence[int]],
    requested: Plan | DecodeOptions,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Hypothesis]:
    """Decode token sequences (no EOS) and return their hypotheses in the same order.

    They are greedy or sampled, or the best of a beam. `progress` is called after each batch with
    the number of texts it held. Raises `UsageError` for options without a plan that the model
    cannot follow.
    """
    plan = planned(requested, engine.config)
    decode = decode_batch if plan.options.beam == 1 else search_batch
    results: dict[int, Hypothesis] = {}
    by_length = sorted(range(len(sources)), key=lambda index: (len(sources[index]), index))
    for first in range(0, len(by_length), plan.options.batch_size):
        rows = by_length[first : first + plan.options.batch_size]
        batch = source_batch([sources[row] for row in rows], engine.config)
        results.update(zip(rows, decode(engine, *batch, plan), strict=True))
        progress(len(rows))
    return [results[index] for index in range(len(sources))]


def source_batch(
    sources: Sequence[Sequence[int]], config: TransformerConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources with EOS (prompts of a causal model without), padded on the right [B, S], and their
    lengths [B].
    """
    end = [config.end_token] if config.encoder_layers else []
    counts = [len(source) + len(end) for source in sources]
    longest, pad = max(counts, default=0), config.pad_token
    rows = [
        [*source, *end, *[pad] * (longest - count)]
        for source, count in zip(sources, counts, strict=True)
    ]
    padded = torch.tensor(rows, dtype=torch.long).view(len(rows), longest)
    return padded, torch.tensor(counts, dtype=torch.long)
