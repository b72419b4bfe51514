"""Write Chinese-English text from one tagged file.

    python corpus.py DATA DIRECTORY [TAG ...]

Without TAG the pairs are taken whose licences allow a model to be shipped.
DATA holds `train.en-zh.tsv.xz` and `dev.en-zh.tsv.xz`, lines of tag, English and Chinese between
tabs. Equal pairs are written once. Lines spread evenly over the dev file make the validation set,
the others the test set; no training line has an English side that the dev file has.
"""

from __future__ import annotations

import argparse
import lzma
from collections.abc import Iterator
from pathlib import Path

FREE_TAGS = ("tatoeba", "pydocs", "lohelp", "loui")
"""CC BY 2.0 FR, CC0 and PSF-2.0, MPL-2.0, MPL-2.0; `wesnoth` is GPL-2+ and stays out."""

VALIDATION_EVERY = 4
"""Of so many dev lines one goes to the validation set."""


def pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """Tag, Chinese and English of each line that has all three."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            cells = [" ".join(cell.split()) for cell in line.rstrip("\n").split("\t")]
            if len(cells) == 3 and all(cells):
                tag, english, chinese = cells
                yield tag, chinese, english


def write(directory: Path, name: str, chosen: list[tuple[str, str]]) -> None:
    """One file a language, line by line."""
    for side, language in enumerate(("zh", "en")):
        text = "".join(f"{pair[side]}\n" for pair in chosen)
        (directory / f"{name}.{language}").write_text(text, encoding="utf-8")


def main(data: Path, directory: Path, tags: tuple[str, ...]) -> None:
    """Write train, validation and test files into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    held_out = [(chinese, english) for _, chinese, english in pairs(data / "dev.en-zh.tsv.xz")]
    known = {english for _, english in held_out}
    train = dict.fromkeys(
        (chinese, english)
        for tag, chinese, english in pairs(data / "train.en-zh.tsv.xz")
        if tag in tags and english not in known
    )
    write(directory, "train", list(train))
    write(directory, "validation", held_out[::VALIDATION_EVERY])
    write(
        directory, "test", [pair for place, pair in enumerate(held_out) if place % VALIDATION_EVERY]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument("tags", nargs="*", default=FREE_TAGS, metavar="TAG")
    main(**vars(parser.parse_args()))
