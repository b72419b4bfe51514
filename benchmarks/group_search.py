"""Measure the search inside a group: BLEU and time by K and by the groups kept.

    python group_search.py RESULT NAME=PREFIX ... [--model DIR] [--engines int8,eager]

PREFIX.en and PREFIX.de are a test set. BLEU is that of int8, in batches of 32. Times are those of
every engine on one thread: medians over single sentences, and batches of 32 of the int8 engine; all
ways take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sacrebleu.metrics import BLEU

import multistride
from multistride.cpu import cpu_name
from multistride.files import sha256, write_json
from multistride.model.directory import WEIGHTS
from multistride.shipped import DEFAULT

SIZES, BEAMS = (2, 4, 6, 8), (1, 2, 4)
WAYS = [(1, 1), *((size, beam) for size in SIZES for beam in BEAMS)]
BATCH, ALONE, LOT, LONGEST = 32, 60, 256, 200
"""Sentences of a batch, sentences timed alone, sentences timed in batches, and their most words."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--model", type=Path, default=DEFAULT)
    parser.add_argument("--engines", default="int8,eager")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    models = {name: multistride.load(asked.model, engine=name) for name in asked.engines.split(",")}
    results = [row for each in asked.sets for row in measured(models, *each.split("=", 1))]
    settings = {
        "model_sha256": sha256(asked.model / WEIGHTS),
        "sources_sha256": {
            name: sha256(Path(f"{prefix}.en"))
            for name, prefix in (each.split("=", 1) for each in asked.sets)
        },
        "bleu_engine": "int8",
        "precisions": {name: model.engine.precision for name, model in models.items()},
        "timed_alone": ALONE,
        "timed_in_batches_of_32": LOT,
        "threads": 1,
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "multistride": multistride.__version__,
    }
    title = "Search inside a group"
    write_json(
        asked.result, {"name": title, "kind": "other", "settings": settings, "results": results}
    )


def measured(models: dict[str, Any], name: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Yield a row for every way of decoding."""
    sides = (
        Path(f"{prefix}.{end}").read_text(encoding="utf-8").splitlines() for end in ("en", "de")
    )
    pairs = [pair for pair in zip(*sides, strict=True) if len(pair[0].split()) <= LONGEST]
    sources, references = map(list, zip(*pairs, strict=True))
    step = len(sources) // ALONE
    alone, lot = sources[::step][:ALONE], sources[:: max(1, len(sources) // LOT)][:LOT]
    times: dict[str, dict[tuple[int, int], float]] = {}
    for engine, model in models.items():
        singly = in_turns(model, [[text] for text in alone])
        times[f"{engine}_ms_alone"] = {way: 1000 * statistics.median(singly[way]) for way in WAYS}
    batches = in_turns(models["int8"], [lot, lot, lot])
    times["int8_ms_in_batches"] = {
        way: 1000 * statistics.median(batches[way]) / len(lot) for way in WAYS
    }
    for size, beam in WAYS:
        written = models["int8"].translate(sources, size, group_beam=beam, batch_size=BATCH)
        bleu = BLEU().corpus_score([each.text for each in written], [references]).score
        own = {kind: by_way[size, beam] for kind, by_way in times.items()}
        print(f"{name}, K={size}, beam {beam}: BLEU {bleu:.2f}, {own}", flush=True)
        yield {
            "name": f"{name}, K={size}, {beam} kept",
            "metrics": {"bleu": bleu, **own},
        }


def in_turns(model: Any, inputs: list[list[str]]) -> dict[tuple[int, int], list[float]]:
    """Return the seconds of each way for every input; ways take turns on each."""
    seconds: dict[tuple[int, int], list[float]] = {way: [] for way in WAYS}

    def run(texts: list[str], way: tuple[int, int]) -> None:
        model.translate(texts, way[0], group_beam=way[1], batch_size=BATCH)

    for way in WAYS:
        run(inputs[0], way)
    for texts in inputs:
        for way in WAYS:
            began = time.perf_counter()
            run(texts, way)
            seconds[way].append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main()
