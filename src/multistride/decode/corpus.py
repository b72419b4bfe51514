"""Decoding many sentences: in batches of similar length, the order restored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from multistride.decode.batch import decode_batch
from multistride.decode.beam import search_batch
from multistride.decode.choosing.strategy import Measured
from multistride.decode.constraints import Constraints
from multistride.decode.options import DecodeOptions
from multistride.decode.state import Hypothesis
from multistride.model.config import TransformerConfig
from multistride.model.step import M, StepModel


def decode_corpus(
    model: StepModel[M],
    sources: Sequence[Sequence[int]],
    options: DecodeOptions,
    progress: Callable[[int], None] = lambda count: None,
    constraints: Constraints | None = None,
    measured: Measured | None = None,
) -> list[Hypothesis]:
    """Decode token sequences (no EOS) and return their hypotheses in the same order: greedily, or
    the best of a beam.

    `progress` is called after each batch with the number of sentences it held. `constraints` are
    those of the options (`constraints_of`); left out they can say nothing about text. `measured` is
    what is known of the model beforehand (see `decode.strategy`). Raises `UsageError` if the model
    cannot do what `options` ask.
    """
    options.checked(model.config)
    results: dict[int, Hypothesis] = {}
    by_length = sorted(range(len(sources)), key=lambda index: (len(sources[index]), index))
    for first in range(0, len(by_length), options.batch_size):
        rows = by_length[first : first + options.batch_size]
        source, lengths = source_batch([sources[row] for row in rows], model.config)
        if options.beam == 1:
            written = decode_batch(model, source, lengths, options, constraints, measured)
        else:
            written = search_batch(model, source, lengths, options, constraints)
        results.update(zip(rows, written, strict=True))
        progress(len(rows))
    return [results[index] for index in range(len(sources))]


def source_batch(
    sources: Sequence[Sequence[int]], config: TransformerConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources with EOS (prompts of a causal model without), padded on the right [B, S], and their
    lengths [B].
    """
    end = [config.end_token] if config.encoder_layers else []
    rows = [torch.tensor([*source, *end], dtype=torch.long) for source in sources]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=config.pad_token)
    return padded, lengths
