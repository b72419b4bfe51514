"""Write prompts of several kinds for the draft head that ships: `head.sh` has the whole recipe.

    python chat_prompts.py TRIVIA REQUESTS SENTENCES DIRECTORY [--without FILE ...]

TRIVIA is a .jsonl.xz with a question in the field "question" of each line (OpenTriviaQA), REQUESTS
the data_full.json.gz of CLINC150, SENTENCES the English side that
`examples/english-german/corpus.py` wrote. DIRECTORY gets test.txt and validation.txt, which are
those of `questions.py`, and train.txt: the other questions of TRIVIA, 5,000 questions of SENTENCES
that stand in no FILE, and 4,000 requests.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from pathlib import Path

from questions import TEST, VALIDATION, questions

SHORTEST, LONGEST = 4, 14
"""Words of a question of SENTENCES; a request has no fewer."""

ASKED, REQUESTED = 5_000, 4_000
NAMES = "Tom", "Mary"
"""Common in Tatoeba alone."""


def lines(path: Path) -> list[str]:
    """Return the lines of a text file."""
    return path.read_text(encoding="utf-8").split("\n")


def is_asked(sentence: str) -> bool:
    """Return True for a question that anybody might ask."""
    if not (sentence[:1].isupper() and sentence.endswith("?")):
        return False
    named = any(name in sentence for name in NAMES)
    return not named and SHORTEST <= len(sentence.split()) <= LONGEST


def main(
    trivia: Path, requests: Path, sentences: Path, directory: Path, without: list[Path]
) -> None:
    """Write the three files."""
    known = questions(trivia)
    held_out = {line for path in without for line in lines(path)}
    stripped = dict.fromkeys(line.strip() for line in lines(sentences))
    asked = [line for line in stripped if is_asked(line) and line not in held_out]
    with gzip.open(requests, "rt", encoding="utf-8") as file:
        said = [text for text, _ in json.load(file)["train"] if len(text.split()) >= SHORTEST]
    requested = list(dict.fromkeys(said))
    chance = random.Random(2)
    chance.shuffle(asked)
    chance.shuffle(requested)
    learnt = known[TEST + VALIDATION :] + asked[:ASKED] + requested[:REQUESTED]
    chance.shuffle(learnt)
    parts = {"test": known[:TEST], "validation": known[TEST : TEST + VALIDATION], "train": learnt}
    directory.mkdir(parents=True, exist_ok=True)
    for name, prompts in parts.items():
        text = "".join(prompt + "\n" for prompt in prompts)
        (directory / f"{name}.txt").write_text(text, encoding="utf-8")
    print(f"{len(learnt)} prompts to learn from")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("trivia", "requests", "sentences", "directory"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    parser.add_argument("--without", type=Path, nargs="+", default=[], metavar="FILE")
    main(**vars(parser.parse_args()))
