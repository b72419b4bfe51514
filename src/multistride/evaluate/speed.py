"""Latency, measured so that the noise of the machine falls on all ways alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

E = TypeVar("E")

WARM_UP = 3
"""Sentences decoded at every group size before the clock counts."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds per sentence at batch 1, encoder included: median and 95th percentile."""

    p50: float
    p95: float


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


def spread(count: int, wanted: int) -> list[int]:
    """Return at most `wanted` indices, evenly spread over 0 ... count - 1."""
    wanted = min(count, wanted)
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]
