"""Write CommonGen as texts: a set of concepts on one line, a sentence about them on the other.

    python corpus.py COMMONGEN DIRECTORY

COMMONGEN holds `train.tsv.xz`, `dev.tsv.xz` and `test.tsv.xz`, lines of concepts and sentence between a tab. The order
of the concepts means nothing, so each training pair is written twice, the second time with its concepts shuffled.
`distill.concepts` holds each training set in two orders, for a teacher to write about. What is measured is a set with
all of its sentences, one JSON object a line: `validation.jsonl` and `test.jsonl`.
"""

from __future__ import annotations

import json
import lzma
import random
import sys
from pathlib import Path

SEED = 7
ORDERS = 1


def sets(path: Path) -> dict[str, list[str]]:
    """The sentences of each set of concepts, in the order of the file."""
    found: dict[str, list[str]] = {}
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            concepts, sentence = (" ".join(cell.split()) for cell in line.rstrip("\n").split("\t"))
            found.setdefault(concepts, []).append(sentence)
    return found


def shuffled(concepts: str, draws: random.Random) -> str:
    """The same concepts in another order."""
    words = concepts.split()
    return " ".join(draws.sample(words, len(words)))


def write_lines(path: Path, lines: list[str]) -> None:
    """One line each."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main(commongen: Path, directory: Path) -> None:
    """Write everything into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    draws = random.Random(SEED)
    train = sets(commongen / "train.tsv.xz")
    pairs = [(concepts, sentence) for concepts, sentences in train.items() for sentence in sentences]
    pairs += [(shuffled(concepts, draws), sentence) for concepts, sentence in pairs]
    write_lines(directory / "train.concepts", [concepts for concepts, _ in pairs])
    write_lines(directory / "train.sentence", [sentence for _, sentence in pairs])
    again = [shuffled(concepts, draws) for concepts in train for _ in range(ORDERS - 1)]
    write_lines(directory / "distill.concepts", [*train, *again])
    for split, name in (("validation", "dev"), ("test", "test")):
        held_out = sets(commongen / f"{name}.tsv.xz")
        overlap = {frozenset(concepts.split()) for concepts in held_out}
        overlap &= {frozenset(concepts.split()) for concepts in train}
        if overlap:
            sys.exit(f"{len(overlap)} sets of concepts of {name} are in the training text too")
        write_lines(directory / f"{split}.concepts", list(held_out))
        write_lines(directory / f"{split}.sentence", [sentences[0] for sentences in held_out.values()])
        records = (
            json.dumps({"source": concepts, "concepts": concepts.split(), "references": sentences}, ensure_ascii=False)
            for concepts, sentences in held_out.items()
        )
        write_lines(directory / f"{split}.jsonl", list(records))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
