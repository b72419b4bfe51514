"""The rows of a benchmark, made from what was timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistride.evaluate.bench.bandwidth import (
    bytes_per_weight,
    weights_per_batch,
    weights_per_step,
)
from multistride.evaluate.bench.rounds import Entry, Timed
from multistride.metrics.quality import identical_share, measure_quality
from multistride.metrics.repetition import repetition_rate
from multistride.report.result import Row


@dataclass(frozen=True)
class Conditions:
    """The machine, and the references of the sentences that were timed (or none)."""

    cpu: str
    threads: int
    bytes_per_second: float
    references: Sequence[str]
    tokenize: str


def rows_of(
    timings: Sequence[Timed], batch_size: int, conditions: Conditions
) -> tuple[list[Row], list[Row]]:
    """Return the rows of one batch size: our own with their ratios, and the baselines."""
    own, baselines = [], []
    for timed in timings:
        facts = _facts(timed, _reference(timed, timings), batch_size, conditions)
        if timed.entry.baseline is not None:
            baselines.append(Row(name=timed.entry.baseline, **facts))
        if timed.entry.own:
            rounds = {
                name: _ratios(other, timed) for name, other in _others(timed.entry, timings).items()
            }
            ratios = {name: median(each) for name, each in rounds.items()}
            spreads = {name: (min(each), max(each)) for name, each in rounds.items()}
            own.append(Row(ratio_to=ratios, ratio_spread=spreads, **facts))
    return own, baselines


def _others(entry: Entry, timings: Sequence[Timed]) -> dict[str, Timed]:
    """Return by name the baselines of an entry: those on its own engine and other programs."""
    return {
        timed.entry.baseline: timed
        for timed in timings
        if timed.entry.baseline is not None
        and (timed.entry.engine == entry.engine or not timed.entry.ours)
    }


def _reference(timed: Timed, timings: Sequence[Timed]) -> Timed | None:
    """Return greedy K=1 of the same weights, on the same engine if it is there.

    None for another model.
    """
    if timed.entry.config is not timings[0].entry.config:
        return None
    alone = [
        other
        for other in timings
        if other.entry.autoregressive and other.entry.config is timed.entry.config
    ]
    same = [other for other in alone if other.entry.engine == timed.entry.engine]
    return next(iter(same + alone), None)


def _facts(
    timed: Timed, reference: Timed | None, batch_size: int, conditions: Conditions
) -> dict[str, Any]:
    entry, sentences = timed.entry, timed.sentences
    per_sentence, rounds = _per_sentence(timed), _rounds(timed)
    steps = sum(sentence.steps for sentence in sentences)
    written = sum(sentence.written for sentence in sentences)
    tokens = [sentence.tokens for sentence in sentences]
    return {
        "group_size": entry.options.group_size,
        "mode": entry.options.mode,
        "beam": 1,
        "engine": entry.engine,
        "precision": entry.worker.ready.precision,
        "batch_size": batch_size,
        "threads": conditions.threads,
        "cpu": conditions.cpu,
        "steps_per_sentence": steps / len(sentences),
        "tokens_per_step": written / steps,
        "ms_per_sentence": _total(timed) / len(sentences),
        "ms_per_sentence_spread": (min(rounds) / len(sentences), max(rounds) / len(sentences)),
        "ms_per_sentence_p50": float(np.percentile(per_sentence, 50)),
        "ms_per_sentence_p95": float(np.percentile(per_sentence, 95)),
        "tokens_per_second": 1000 * written / _total(timed),
        "repetition_rate": repetition_rate(tokens),
        "identical_to_k1": identical_share(tokens, [each.tokens for each in reference.sentences])
        if reference
        else None,
        "memory_peak_mb": timed.peak_mb,
        "memory_libraries_mb": entry.worker.ready.libraries_mb,
        "bandwidth_fraction": _bandwidth_fraction(timed, conditions.bytes_per_second),
        **_quality(timed, conditions),
    }


def _quality(timed: Timed, conditions: Conditions) -> dict[str, Any]:
    names = ("bleu", "bleu_signature", "chrf", "chrf_signature", "length_ratio")
    if not conditions.references:
        return dict.fromkeys(names)
    texts = timed.entry.vocabulary.decode_all([sentence.tokens for sentence in timed.sentences])
    quality = measure_quality(texts, list(conditions.references), conditions.tokenize)
    return {name: getattr(quality, name) for name in names}


def _per_sentence(timed: Timed) -> NDArray[np.float64]:
    """Return milliseconds per sentence of each batch, the median of its rounds."""
    medians = np.median(np.array(timed.milliseconds), axis=0)
    times: NDArray[np.float64] = medians / [len(batch) for batch in timed.batches]
    return times


def _rounds(timed: Timed) -> list[float]:
    """Return the milliseconds of each whole round."""
    return [sum(each) for each in timed.milliseconds]


def _total(timed: Timed) -> float:
    """Return the milliseconds of the median round."""
    return median(_rounds(timed))


def _ratios(baseline: Timed, timed: Timed) -> list[float]:
    """Return how many times as fast as a baseline, round by round."""
    return [theirs / ours for theirs, ours in zip(_rounds(baseline), _rounds(timed), strict=True)]


def _bandwidth_fraction(timed: Timed, bytes_per_second: float) -> float | None:
    """Return bytes of weights read per second over what the machine can read.

    A batch reads the encoder once, and the decoder once in each of its passes.
    """
    size = bytes_per_weight(timed.entry.worker.ready.precision)
    if size is None:
        return None
    config = timed.entry.config
    passes = sum(max(timed.sentences[place].steps for place in batch) for batch in timed.batches)
    weights = passes * weights_per_step(config) + len(timed.batches) * weights_per_batch(config)
    return 1000 * weights * size / _total(timed) / bytes_per_second
