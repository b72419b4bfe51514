"""Write windows of consecutive sentences as pairs, for a model that translates several at a time.

    python corpus.py DATA DIRECTORY

DATA has `train.en-de.tsv.xz` and `dev.en-de.tsv.xz` (SuttaCentral): lines of document and place
("an1.16:1.1"), English and German between tabs. Every document is cut into windows of one to four
lines, their lengths drawn, joined by a blank, twice; a window ends where `multistride translate
--window` would end it: behind a line that does not end its sentence, on either side. Windows that
the dev part has too are left out.
"""

from __future__ import annotations

import argparse
import lzma
import random
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from multistride.tasks.sentence_windows import ends_sentence

LONGEST = 4
TIMES = 2
SEED = 11


def documents(path: Path) -> list[list[tuple[str, str]]]:
    """Pairs of lines that have text on both sides, document by document."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [
        [(source, target) for _, source, target in group if source.strip() and target.strip()]
        for _, group in groupby(rows, key=lambda row: row[0].split(":")[0])
    ]


def windows(document: list[tuple[str, str]], draws: random.Random) -> Iterator[tuple[str, str]]:
    """The document once, in windows."""
    place = 0
    while place < len(document):
        wanted = draws.randint(1, LONGEST)
        window: list[tuple[str, str]] = []
        while place < len(document) and len(window) < wanted:
            window.append(document[place])
            place += 1
            if not all(map(ends_sentence, window[-1])):
                break
        sources, targets = zip(*window, strict=True)
        yield " ".join(sources), " ".join(targets)


def main(data: Path, directory: Path) -> None:
    """Write `train` and `validation`, `.en` and `.de`."""
    directory.mkdir(parents=True, exist_ok=True)
    draws = random.Random(SEED)
    held_out = documents(data / "dev.en-de.tsv.xz")
    validation = [pair for document in held_out for pair in windows(document, draws)]
    known = {source for document in held_out for source, _ in document} | {
        source for source, _ in validation
    }
    train = [
        pair
        for _ in range(TIMES)
        for document in documents(data / "train.en-de.tsv.xz")
        for pair in windows(document, draws)
        if pair[0] not in known
    ]
    for name, pairs in (("train", list(dict.fromkeys(train))), ("validation", validation)):
        for side, language in enumerate(("en", "de")):
            text = "".join(f"{pair[side]}\n" for pair in pairs)
            (directory / f"{name}.{language}").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    main(**vars(parser.parse_args()))
