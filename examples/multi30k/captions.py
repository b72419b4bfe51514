"""Write English sentences like captions, for a teacher to translate: the targets of CommonGen.

    python captions.py COMMONGEN MULTI30K OUTPUT

COMMONGEN holds `train.tsv.xz`, `dev.tsv.xz` and `test.tsv.xz`, lines of concepts and sentence
between a tab. Left out is a sentence that MULTI30K's training, validation or test text has too
(compared without case and punctuation), so that nothing measured was seen in training, and one with
a word that the training text does not have twice: the teacher would not know how to translate it.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import re
from collections import Counter
from pathlib import Path

_LONGEST = 40
"""Words; captions are shorter."""

_WORD = re.compile(r"[a-z']+")


def _key(sentence: str) -> str:
    """The letters and digits of a sentence, in lower case."""
    return "".join(character for character in sentence.lower() if character.isalnum())


def main(commongen: Path, multi30k: Path, output: Path) -> None:
    """Write one sentence a line, each once."""
    known: set[str] = set()
    words: Counter[str] = Counter()
    for path in sorted(multi30k.glob("*.en.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            sentences = list(file)
        known.update(map(_key, sentences))
        if path.name.startswith("train"):
            words.update(word for sentence in sentences for word in _WORD.findall(sentence.lower()))
    kept: dict[str, str] = {}
    for split in ("train", "dev", "test"):
        with lzma.open(commongen / f"{split}.tsv.xz", "rt", encoding="utf-8") as file:
            for line in file:
                sentence = " ".join(line.rstrip("\n").split("\t")[-1].split())
                key = _key(sentence)
                understood = all(words[word] >= 2 for word in _WORD.findall(sentence.lower()))
                if key and key not in known and understood and len(sentence.split()) <= _LONGEST:
                    kept.setdefault(key, sentence)
    output.write_text("".join(f"{sentence}\n" for sentence in kept.values()), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commongen", type=Path, metavar="COMMONGEN")
    parser.add_argument("multi30k", type=Path, metavar="MULTI30K")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    main(**vars(parser.parse_args()))
