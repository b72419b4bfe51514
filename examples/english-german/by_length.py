"""Measure BLEU by K and by the length of the source, and write it as JSON.

    python by_length.py MODEL OUTPUT NAME=STEM [NAME=STEM ...]

STEM names a test set: STEM.en and STEM.de. Greedy, mode fast.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import multistride
from multistride.files import write_json
from multistride.metrics.quality import measure_quality

GROUP_SIZES = (1, 2, 4, 8)
BINS = ((1, 7), (8, 14), (15, 40), (41, 1000))
FEWEST = 20
"""A bin with fewer sentences has no BLEU worth the name and is left out."""


def measure(model: multistride.Translator, stem: str) -> list[dict[str, float | str]]:
    """Return a row for each bin: its words, sentences, and BLEU by K."""
    sources = Path(f"{stem}.en").read_text(encoding="utf-8").splitlines()
    references = Path(f"{stem}.de").read_text(encoding="utf-8").splitlines()
    written = {
        size: [each.text for each in model.translate(sources, group_size=size)]
        for size in GROUP_SIZES
    }
    rows: list[dict[str, float | str]] = []
    for first, last in BINS:
        chosen = [i for i, text in enumerate(sources) if first <= len(text.split()) <= last]
        if len(chosen) < FEWEST:
            continue
        row: dict[str, float | str] = {
            "source_words": f"{first}-{last}" if last < 1000 else f"{first} or more",
            "sentences": len(chosen),
        }
        for size, texts in written.items():
            pairs = [texts[i] for i in chosen], [references[i] for i in chosen]
            row[f"bleu_k{size}"] = measure_quality(*pairs).bleu
        rows.append(row)
    return rows


def main(directory: str, output: str, named: list[str]) -> None:
    """Measure each named test set and write all of them into one file."""
    model = multistride.load(directory, engine="eager")
    assert isinstance(model, multistride.Translator)
    sets = dict(each.split("=", 1) for each in named)
    write_json(Path(output), {name: measure(model, stem) for name, stem in sets.items()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", metavar="MODEL")
    parser.add_argument("output", metavar="OUTPUT")
    parser.add_argument("named", nargs="+", metavar="NAME=STEM")
    main(**vars(parser.parse_args()))
