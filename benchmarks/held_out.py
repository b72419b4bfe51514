"""Collect English sentences that the shipped model was not trained on, one a line.

    python benchmarks/held_out.py DATA OUTPUT.txt [--count 20100]

DATA is the folder that holds `tatoeba/` and `suttacentral/` as tab-separated `.tsv.xz` files. The
development sets of the English-German corpora come first; English sentences of the English-French
and English-Chinese ones that no English-German training set holds fill the rest. The order is that
of the sentences' MD5 sums, so the same data always gives the same file.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
from pathlib import Path

TRAINED_ON = (("tatoeba/train.en-de", 0), ("suttacentral/train.en-de", 1))
"""Files, and the column of the English sentence."""

FIRST = (("tatoeba/dev.en-de", 0), ("suttacentral/dev.en-de", 1))

REST = (
    ("tatoeba/dev.en-fr", 0),
    ("tatoeba/train.en-fr", 0),
    ("tatoeba/dev.en-zh", 0),
    ("tatoeba/train.en-zh", 0),
)


def english(data: Path, files: tuple[tuple[str, int], ...]) -> set[str]:
    """Return the distinct English sentences of some files."""
    sentences = set()
    for name, column in files:
        with lzma.open(data / f"{name}.tsv.xz", "rt", encoding="utf-8") as lines:
            sentences |= {line.rstrip("\n").split("\t")[column].strip() for line in lines}
    return sentences - {""}


def shuffled(sentences: set[str]) -> list[str]:
    """Return sentences in the order of their MD5 sums."""
    return sorted(sentences, key=lambda text: hashlib.md5(text.encode()).digest())


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=20_100)
    chosen = parser.parse_args()
    seen = {text.lower() for text in english(chosen.data, TRAINED_ON)}

    def unseen(files: tuple[tuple[str, int], ...]) -> set[str]:
        return {text for text in english(chosen.data, files) if text.lower() not in seen}

    first = unseen(FIRST)
    ordered = [*shuffled(first), *shuffled(unseen(REST) - first)][: chosen.count]
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text("".join(f"{text}\n" for text in ordered), encoding="utf-8")
    print(f"{chosen.output}: {len(ordered)} sentences")


if __name__ == "__main__":
    main()
