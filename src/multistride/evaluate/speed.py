"""How long a sentence takes, measured so that the noise of the machine falls on every group size alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.decode.state import Hypothesis
from multistride.decode.strategy import Measured
from multistride.model.step import M, StepModel

WARM_UP = 3
"""Sentences decoded at every group size before the clock counts."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds per sentence at batch 1, encoder included: median and 95th percentile."""

    p50: float
    p95: float


def measure_latency(
    model: StepModel[M],
    sources: Sequence[Sequence[int]],
    options: Sequence[DecodeOptions],
    measured: Measured | None = None,
) -> list[Latency]:
    """Decode each source alone under each of `options`, interleaved, and return one latency for each of them.

    Sentence by sentence every option is timed once, beginning with another one each time.
    """
    times: list[list[float]] = [[] for _ in options]
    for source in sources[:WARM_UP]:
        for choice in options:
            decode_corpus(model, [source], choice, measured=measured)
    for turn, source in enumerate(sources):
        for place in range(len(options)):
            index = (place + turn) % len(options)
            began = time.perf_counter()
            decode_corpus(model, [source], options[index], measured=measured)
            times[index].append(1000 * (time.perf_counter() - began))
    return [Latency(float(np.percentile(each, 50)), float(np.percentile(each, 95))) for each in times]


@dataclass(frozen=True)
class Throughput:
    """A corpus decoded in batches, and the target tokens (EOS included) written per second."""

    hypotheses: list[Hypothesis]
    tokens_per_second: float


def measure_throughput(
    model: StepModel[M], sources: Sequence[Sequence[int]], options: DecodeOptions, measured: Measured | None = None
) -> Throughput:
    """Decode a corpus once, in batches of `options.batch_size` sentences of similar length."""
    began = time.perf_counter()
    hypotheses = decode_corpus(model, sources, options, measured=measured)
    seconds = time.perf_counter() - began
    written = sum(len(hypothesis.log_probabilities) for hypothesis in hypotheses)
    return Throughput(hypotheses, written / seconds)
