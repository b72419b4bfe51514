"""Write the CMU Pronouncing Dictionary as a translation task: letters in, phonemes out.

    python words.py DATA DIRECTORY

DATA holds `train.tsv.xz`, `dev.tsv.xz` and `test.tsv.xz` (a word, a tab, its ARPAbet phonemes with
stress marks). "hello" becomes "h e l l o" and "HH AH0 L OW1". Of several pronunciations the first
listed is taken; words with more than letters and apostrophes are left out.
"""

from __future__ import annotations

import argparse
import lzma
import re
from pathlib import Path

WORD = re.compile(r"[a-z'][a-z'.-]*")
SPLITS = {"train": "train", "validation": "dev", "test": "test"}


def main(data: Path, directory: Path) -> None:
    """Write one file a split and side into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, file in SPLITS.items():
        words: dict[str, str] = {}
        with lzma.open(data / f"{file}.tsv.xz", "rt", encoding="utf-8") as lines:
            for line in lines:
                word, _, phonemes = line.rstrip("\n").partition("\t")
                if WORD.fullmatch(word) and phonemes:
                    words.setdefault(word, phonemes)
        letters = "".join(" ".join(word) + "\n" for word in words)
        (directory / f"{split}.letters").write_text(letters, encoding="utf-8")
        pronounced = "".join(phonemes + "\n" for phonemes in words.values())
        (directory / f"{split}.phonemes").write_text(pronounced, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    main(**vars(parser.parse_args()))
