"""Write the training text of the English-German model that ships, from freely licensed corpora.

    python corpus.py DATA DIRECTORY

DATA holds `tatoeba/` (CC BY 2.0 FR), `suttacentral/` (CC0), `permissive-ui-strings/` (Apache-2.0,
BSD-3) and `libreoffice/` (MPL-2.0). Written are `train`, `validation` and one test set a corpus
(`test-tatoeba`, `test-suttacentral`), each as `.en` and `.de`.

- Equal pairs are written once, and no source of a validation or test set is trained on.
- Interface text addresses the reader informally (du), as most of the other text does: LibreOffice
  is formal, so its pairs with a formal pronoun are left out.
- Long lines of help text outweigh what people type first; one of three is kept.
- A few pairs are written again as people type: without the final full stop, or in lower case; and
  some are joined in twos and threes, so that several sentences in a line come out whole.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import random
import re
from collections.abc import Iterator
from pathlib import Path

COLUMNS = {"tatoeba": (0, 1), "suttacentral": (1, 2), "permissive-ui-strings": (1, 2)}
HELD_OUT_EVERY = 100
"""Of LibreOffice, which has no split, one pair in so many is kept out of training."""

VALIDATION_LINES = 250
"""About so many of each corpus."""

FORMAL = re.compile(r"\b(Sie|Ihnen|Ihr|Ihre[nmrs]?)\b")
LONG_WORDS = 12
"""Help text with more words is thinned out."""

Pair = tuple[str, str]


def pairs(path: Path, columns: tuple[int, int]) -> Iterator[Pair]:
    """Source and target of each line that has both."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            cells = line.rstrip("\n").split("\t")
            if len(cells) > max(columns):
                source, target = (" ".join(cells[column].split()) for column in columns)
                if source and target:
                    yield source, target


def share(text: str) -> int:
    """Return a number from 0 to 99 that follows from the text alone."""
    return hashlib.sha256(text.encode()).digest()[0] * 100 // 256


def libreoffice(data: Path) -> Iterator[Pair]:
    """Yield the informal pairs of LibreOffice, long ones thinned out."""
    for name in ("ui", "help"):
        for source, target in pairs(data / "libreoffice" / f"{name}.en-de.tsv.xz", (0, 1)):
            if FORMAL.search(target) or source == target:
                continue
            if len(source.split()) <= LONG_WORDS or share(source) < 34:
                yield source, target


def as_typed(train: list[Pair], generator: random.Random) -> Iterator[Pair]:
    """Yield some pairs as people type them: no full stop, or all in lower case."""
    for source, target in train:
        if len(source.split()) > 10:
            continue
        draw = generator.random()
        if draw < 0.04 and source.endswith(".") and target.endswith("."):
            yield source[:-1], target
        elif draw < 0.07:
            yield source.lower().rstrip(".!"), target
        elif draw < 0.5 and source.endswith("!") and target.endswith("!") and source.count(" ") < 3:
            yield source[:-1] + ".", target[:-1] + "."


def joined(train: list[Pair], count: int, generator: random.Random) -> Iterator[Pair]:
    """Yield pairs that are two or three pairs in one line."""
    whole = [pair for pair in train if pair[0][-1:] in ".?!" and pair[1][-1:] in ".?!"]
    for _ in range(count):
        chosen = generator.sample(whole, generator.choice((2, 2, 3)))
        yield " ".join(pair[0] for pair in chosen), " ".join(pair[1] for pair in chosen)


def write(directory: Path, name: str, chosen: list[Pair]) -> None:
    """Write one file a language, line by line."""
    for side, language in enumerate(("en", "de")):
        text = "".join(f"{pair[side]}\n" for pair in chosen)
        (directory / f"{name}.{language}").write_text(text, encoding="utf-8")


def main(data: Path, directory: Path) -> None:
    """Write train, validation and test files into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = random.Random(1)
    train: dict[Pair, None] = {}
    validation: list[Pair] = []
    tests: dict[str, list[Pair]] = {}
    for name, columns in COLUMNS.items():
        held_out = list(dict.fromkeys(pairs(data / name / "dev.en-de.tsv.xz", columns)))
        every = max(1, len(held_out) // VALIDATION_LINES)
        validation += held_out[::every]
        tests[name] = [pair for index, pair in enumerate(held_out) if index % every]
        train.update(dict.fromkeys(pairs(data / name / "train.en-de.tsv.xz", columns)))
    office = list(libreoffice(data))
    validation += office[::HELD_OUT_EVERY]
    train.update(dict.fromkeys(pair for i, pair in enumerate(office) if i % HELD_OUT_EVERY))
    known = {source for source, _ in validation}
    known |= {source for test in tests.values() for source, _ in test}
    clean = [pair for pair in train if pair[0] not in known]
    tatoeba = set(pairs(data / "tatoeba" / "train.en-de.tsv.xz", (0, 1)))
    everyday = [pair for pair in clean if pair in tatoeba]
    varied = [*as_typed(everyday, generator), *joined(everyday, len(everyday) // 8, generator)]
    clean += [pair for pair in varied if pair[0] not in known]
    write(directory, "train", clean)
    write(directory, "validation", validation)
    for name in ("tatoeba", "suttacentral"):
        write(directory, f"test-{name}", tests[name])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    main(**vars(parser.parse_args()))
