"""The benchmark result: the object `multistride bench --json` prints and the tables and the picture
are made from.

A ratio never stands without the engine, the threads and the processor it was measured on: they are
in its row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue

from multistride.errors import DataError
from multistride.report.results import (
    Amount,
    Count,
    Decoding,
    Name,
    Record,
    Score,
    Time,
    read_record,
)
from multistride.untrusted import read_json

OWN = "own-k1"
"""The baseline that is greedy K=1 of the same weights on the same engine."""

Spread = tuple[Amount, Amount]
"""The lowest and the highest of all rounds."""


class Timing(Decoding):
    """One contender at one batch size.

    `ms_per_sentence` is that of the median round, its spread the fastest and the slowest; the
    percentiles are over batches, each the median of its rounds over its sentences. Quality is that
    of the sentences that were timed, None without a reference. `memory_peak_mb` is the size of the
    contender's process while it decoded, `memory_libraries_mb` its size before a model was opened
    (2**20 bytes). `bandwidth_fraction` is the share of the measured memory bandwidth that reading
    the weights took; above 1 they were read from a cache.
    """

    batch_size: Count
    threads: Count
    cpu: Name
    precision: Name
    ms_per_sentence: Amount
    ms_per_sentence_spread: Spread
    bleu: Score | None
    bleu_signature: Name | None
    chrf: Score | None
    chrf_signature: Name | None
    length_ratio: Amount | None
    memory_peak_mb: Amount | None
    memory_libraries_mb: Amount | None
    bandwidth_fraction: Amount | None


class BenchmarkRow(Timing):
    """One of our own combinations, and how many times as fast it is as each baseline (above 1:
    faster).

    A ratio is the median of the ratios of the rounds, in which both had their turns side by side.
    """

    ratio_to: dict[str, Amount]
    ratio_spread: dict[str, Spread]

    @property
    def line(self) -> tuple[str, str, int]:
        """What all batch sizes of a row have in common: engine, mode, K."""
        return self.engine, self.mode, self.group_size


class BaselineRow(Timing):
    """What the ratios are taken to, at one batch size."""

    name: Name


class Crossing(Record):
    """Where the gain over a baseline ends: the smallest measured batch with a ratio below 1 (None:
    there is none).
    """

    baseline: Name
    engine: Name
    mode: Name
    group_size: Count
    batch_size: Count | None


class BenchmarkResult(Record):
    """One benchmark of one model on one set of sentences; `created` is an ISO 8601 date and
    time.
    """

    name: Name
    created: Time
    settings: dict[str, JsonValue]
    results: Annotated[tuple[BenchmarkRow, ...], Field(min_length=1)]
    baselines: tuple[BaselineRow, ...] = ()
    crossings: tuple[Crossing, ...] = ()

    @property
    def baseline_names(self) -> list[str]:
        """The baselines in order."""
        return list(dict.fromkeys(row.name for row in self.baselines))

    @property
    def conditions(self) -> str:
        """What every ratio depends on, in one line: engines, threads, processor."""
        engines = list(dict.fromkeys(f"{row.engine} ({row.precision})" for row in self.results))
        threads = sorted({row.threads for row in self.results})
        cpus = list(dict.fromkeys(row.cpu for row in self.results))
        shown = ", ".join("1 thread" if count == 1 else f"{count} threads" for count in threads)
        return f"engine {', '.join(engines)}; {shown}; {', '.join(cpus)}"


def crossings(rows: tuple[BenchmarkRow, ...]) -> tuple[Crossing, ...]:
    """Where each line of rows stops being faster than each baseline."""
    found = []
    for line in dict.fromkeys(row.line for row in rows):
        alike = sorted((row for row in rows if row.line == line), key=lambda row: row.batch_size)
        for name in alike[0].ratio_to:
            if (name, alike[0].group_size) == (OWN, 1):
                continue
            slower = [row.batch_size for row in alike if row.ratio_to[name] < 1]
            engine, mode, group_size = line
            batch = slower[0] if slower else None
            found.append(
                Crossing(
                    baseline=name, engine=engine, mode=mode, group_size=group_size, batch_size=batch
                )
            )
    return tuple(found)


def is_benchmark(path: Path | str) -> bool:
    """Whether a file looks like a benchmark result rather than another one. Unreadable files do
    not.
    """
    try:
        stored = read_json(path)
    except DataError:
        return False
    return isinstance(stored, dict) and "crossings" in stored


def read_benchmark(path: Path | str) -> BenchmarkResult:
    """Read a benchmark result. Raises `DataError`, in one line, if the file is missing or none."""
    return read_record(
        path, BenchmarkResult, "a benchmark result", "write one with: multistride bench --json"
    )
