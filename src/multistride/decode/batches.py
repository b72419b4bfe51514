"""Batches of sources of similar length, as lists: what every engine's arrays are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from multistride.model.config import TransformerConfig


class Padded(NamedTuple):
    """Sources of one length, padded on the right, and how many tokens each has."""

    rows: list[list[int]]
    counts: list[int]


def batches_by_length(sources: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of the sources of each batch, the shortest sources first."""
    by_length = sorted(range(len(sources)), key=lambda index: (len(sources[index]), index))
    for first in range(0, len(by_length), batch_size):
        yield by_length[first : first + batch_size]


def padded(sources: Sequence[Sequence[int]], config: TransformerConfig) -> Padded:
    """Return sources with EOS (prompts of a causal model without), padded to the longest."""
    end = [config.end_token] if config.encoder_layers else []
    counts = [len(source) + len(end) for source in sources]
    longest, pad = max(counts, default=0), config.pad_token
    rows = [
        [*source, *end, *[pad] * (longest - count)]
        for source, count in zip(sources, counts, strict=True)
    ]
    return Padded(rows, counts)
