"""Measure quality against steps: every policy at every setting, and fixed group sizes.

    python frontier.py --source FILE --reference FILE --output RESULT.json [--picture FILE.svg]
        [--model DIRECTORY]

Without `--model` the model that ships is measured. A point is one decoding of the whole file.
`--latency N` times N sentences one by one as well, all ways in turn. `--only-picture` draws an
existing result.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from multistride.cpu import cpu_name
from multistride.data.corpus import read_lines
from multistride.decode.choosing.strategy import Measured
from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import plan
from multistride.errors import UserError
from multistride.evaluate.speed import Latency, in_turns
from multistride.files import replacing_file, sha256, write_json
from multistride.metrics.quality import measure_quality
from multistride.metrics.repetition import repetition_rate
from multistride.report.plots import plot
from multistride.report.reading import read_result
from multistride.shipped import DEFAULT
from multistride.translator import Translator
from multistride.version import __version__

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


def ways(
    largest: int, sizes: tuple[int, ...], lookahead: bool
) -> list[tuple[str, dict[str, Any], bool]]:
    """Name of the series, choices, and whether a calibration is used."""
    found: list[tuple[str, dict[str, Any], bool]] = [
        ("fixed K", {"group_size": size}, False) for size in sizes
    ]
    if not lookahead:
        return found + [adaptive(largest, threshold, False) for threshold in THRESHOLDS]
    found += [
        ("fixed K, lookahead", {"group_size": size, "layout": "lookahead"}, False)
        for size in sizes[1:]
    ]
    found += [adaptive(largest // 2, each, False) for each in THRESHOLDS]
    found += [adaptive(largest, each, used) for used in (False, True) for each in THRESHOLDS]
    phased = {"group_size": largest, "policy": "phase"}
    found += [("phase", {**phased, "threshold": each}, False) for each in (0.1, 0.3, 0.6)]
    sat = {"group_size": largest // 2, "mode": "adaptive", "layout": "sat"}
    found += [
        ("confidence, sat layout", {**sat, "threshold": each}, False) for each in (0.1, 0.3, 0.5)
    ]
    found += [("exact", {"group_size": size, "mode": "exact"}, False) for size in sizes[1:]]
    return found


def adaptive(size: int, threshold: float, calibrated: bool) -> tuple[str, dict[str, Any], bool]:
    """One point of the confidence policy."""
    name = f"confidence, K={size}" + (", calibrated" if calibrated else "")
    return name, {"group_size": size, "mode": "adaptive", "threshold": threshold}, calibrated


def main() -> None:
    """Decode, measure, write, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=DEFAULT)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--name", default="Tatoeba English-German, dev")
    parser.add_argument("--latency", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--only", action="append", help="measure this series (may be repeated), keep the others"
    )
    parser.add_argument("--only-picture", action="store_true")
    chosen = parser.parse_args()
    if not chosen.only_picture:
        if chosen.source is None or chosen.reference is None:
            parser.error("--source and --reference are needed to measure")
        write_json(chosen.output, measured(chosen))
    if chosen.picture:
        with replacing_file(chosen.picture) as place:
            place.write_text(plot(read_result(chosen.output)), encoding="utf-8")


def measured(chosen: argparse.Namespace) -> dict[str, Any]:
    """The result: settings and points."""
    torch.set_num_threads(chosen.threads)
    translator = Translator.load(chosen.model, engine="eager")
    config = translator.config
    sources, references = (
        [line.decode() for line in read_lines(path)] for path in (chosen.source, chosen.reference)
    )
    asked = ways(max(config.group_sizes), config.group_sizes, config.lookahead)
    if translator.measured.calibration is None:
        asked = [way for way in asked if not way[2]]
    asked = [way for way in asked if way[0] in (chosen.only or [way[0]])]
    points = [point(translator, sources, references, *way) for way in asked]
    if chosen.latency:
        step = max(1, len(sources) // chosen.latency)
        timed = translator.vocabulary.encode_source(sources[::step][: chosen.latency])
        options = [DecodeOptions.made(**choices) for _, choices, _ in asked]
        times = latencies(translator, timed, options)
        points = [
            {**each, "ms_per_sentence_p50": time.p50}
            for each, time in zip(points, times, strict=True)
        ]
    settings = {
        "model_sha256": sha256(chosen.model / "model.safetensors"),
        "source_sha256": sha256(chosen.source),
        "sentences": len(sources),
        "latency_sentences": chosen.latency,
        "threads": chosen.threads,
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "multistride": __version__,
    }
    if chosen.only and chosen.output.exists():
        before = json.loads(chosen.output.read_text())["points"]
        points = [each for each in before if each["series"] not in chosen.only] + points
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return {"name": chosen.name, "created": created, "settings": settings, "points": points}


def latencies(
    translator: Translator, sources: list[list[int]], options: list[DecodeOptions]
) -> list[Latency]:
    """Time every source alone under each of the options, in turns."""

    def way(asked: DecodeOptions) -> Callable[[list[int]], object]:
        chosen = plan(asked, translator.config, knowledge=translator.measured)
        return lambda source: decode_corpus(translator.engine, [source], chosen)

    return in_turns([way(asked) for asked in options], sources)


def point(
    translator: Translator,
    sources: list[str],
    references: list[str],
    series: str,
    choices: dict[str, Any],
    calibrated: bool,
) -> dict[str, Any]:
    """One decoding of all sentences."""
    options = DecodeOptions.made(**choices)
    known = translator.measured if calibrated else Measured()
    chosen = plan(options, translator.config, knowledge=known)
    hypotheses = decode_corpus(translator.engine, translator.encode(sources), chosen)
    tokens = [hypothesis.tokens for hypothesis in hypotheses]
    quality = measure_quality(translator.vocabulary.decode_all(tokens), references)
    steps = sum(hypothesis.steps for hypothesis in hypotheses) / len(sources)
    print(
        f"{series:28} {choices} BLEU {quality.bleu:.2f} in {steps:.2f} steps",
        file=sys.stderr,
        flush=True,
    )
    return {
        "series": series,
        **choices,
        "calibrated": calibrated,
        "bleu": quality.bleu,
        "bleu_signature": quality.bleu_signature,
        "chrf": quality.chrf,
        "steps_per_sentence": steps,
        "repetition_rate": repetition_rate(tokens),
        "length_ratio": quality.length_ratio,
    }


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"frontier: {error}")
