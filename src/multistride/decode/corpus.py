"""Decoding many texts: in batches of similar length, the order restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from multistride.decode.batch import decode_batch
from multistride.decode.batches import batches_by_length, padded
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
    for rows in batches_by_length(sources, plan.options.batch_size):
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
    rows, counts = padded(sources, config)
    tokens = torch.tensor(rows, dtype=torch.long).view(len(rows), max(counts, default=0))
    return tokens, torch.tensor(counts, dtype=torch.long)
