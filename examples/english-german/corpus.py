"""Write the training text of the English-German model that may be shipped: only corpora whose
licences allow it.

    python corpus.py DATA DIRECTORY

DATA holds `tatoeba/` (CC BY 2.0 FR), `suttacentral/` (CC0) and `permissive-ui-strings/`
(Apache-2.0, BSD-3), each with `train.en-de.tsv.xz` and `dev.en-de.tsv.xz`. Equal pairs are written
once. Lines spread evenly over every dev file make the validation set; the others of Tatoeba's make
a test set.
"""

from __future__ import annotations

import lzma
import sys
from collections.abc import Iterator
from pathlib import Path

COLUMNS = {"tatoeba": (0, 1), "suttacentral": (1, 2), "permissive-ui-strings": (1, 2)}
VALIDATION_LINES = 250
"""About so many of each corpus."""


def pairs(path: Path, columns: tuple[int, int]) -> Iterator[tuple[str, str]]:
    """Source and target of each line that has both."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            cells = line.rstrip("\n").split("\t")
            if len(cells) > max(columns):
                source, target = (" ".join(cells[column].split()) for column in columns)
                if source and target:
                    yield source, target


def write(directory: Path, name: str, chosen: list[tuple[str, str]]) -> None:
    """One file a language, line by line."""
    for side, language in enumerate(("en", "de")):
        text = "".join(f"{pair[side]}\n" for pair in chosen)
        (directory / f"{name}.{language}").write_text(text, encoding="utf-8")


def main(data: Path, directory: Path) -> None:
    """Write train, validation and test files into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    train: dict[tuple[str, str], None] = {}
    validation: list[tuple[str, str]] = []
    for name, columns in COLUMNS.items():
        held_out = list(pairs(data / name / "dev.en-de.tsv.xz", columns))
        every = max(1, len(held_out) // VALIDATION_LINES)
        validation += held_out[::every]
        train.update(dict.fromkeys(pairs(data / name / "train.en-de.tsv.xz", columns)))
        if name == "tatoeba":
            write(directory, "test", [pair for place, pair in enumerate(held_out) if place % every])
    known = {source for source, _ in validation}
    write(directory, "train", [pair for pair in train if pair[0] not in known])
    write(directory, "validation", validation)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
