"""Latency and throughput, measured so that the noise of the machine falls on all ways alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from multistride.decode.choosing.strategy import Measured
from multistride.decode.corpus import decode_corpus
from multistride.decode.hypothesis import Hypothesis
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import plan
from multistride.decode.step import M, StepModel

E = TypeVar("E")

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
    """Decode each source alone under each of `options`, in turns; return one latency for each.

    Sentence by sentence every option is timed once, beginning with another one each time.
    """

    def way(options: DecodeOptions) -> Callable[[Sequence[int]], object]:
        choice = plan(options, model.config, knowledge=measured)
        return lambda source: decode_corpus(model, [source], choice)

    return in_turns([way(choice) for choice in options], sources)


def in_turns(ways: Sequence[Callable[[E], object]], examples: Sequence[E]) -> list[Latency]:
    """Return the latency of each way: every example goes to all ways in turn, after a warm-up.

    The order of the ways turns as well, so that the noise of the machine falls on all of them
    alike.
    """
    times: list[list[float]] = [[] for _ in ways]
    for example in examples[:WARM_UP]:
        for way in ways:
            way(example)
    for turn, example in enumerate(examples):
        for place in range(len(ways)):
            index = (place + turn) % len(ways)
            began = time.perf_counter()
            ways[index](example)
            times[index].append(1000 * (time.perf_counter() - began))
    return [
        Latency(float(np.percentile(each, 50)), float(np.percentile(each, 95))) for each in times
    ]


@dataclass(frozen=True)
class Throughput:
    """A corpus decoded in batches, and the target tokens (EOS included) written per second."""

    hypotheses: list[Hypothesis]
    tokens_per_second: float


def measure_throughput(
    model: StepModel[M],
    sources: Sequence[Sequence[int]],
    options: DecodeOptions,
    measured: Measured | None = None,
) -> Throughput:
    """Decode a corpus once, in batches of `options.batch_size` sentences of similar length."""
    chosen = plan(options, model.config, knowledge=measured)
    began = time.perf_counter()
    hypotheses = decode_corpus(model, sources, chosen)
    seconds = time.perf_counter() - began
    written = sum(len(hypothesis.log_probabilities) for hypothesis in hypotheses)
    return Throughput(hypotheses, written / seconds)


def spread(count: int, wanted: int) -> list[int]:
    """Return at most `wanted` indices, evenly spread over 0 ... count - 1."""
    wanted = min(count, wanted)
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]
