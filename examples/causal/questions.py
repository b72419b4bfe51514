"""Write questions as prompts: 100 for testing, 40 for validation, COUNT of the others to train.

    python questions.py FILE DIRECTORY COUNT

FILE is a .jsonl.xz with a question in the field "question" of each line. No question is in two of
the files.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import sys
from pathlib import Path

TEST, VALIDATION = 100, 40


def questions(source: Path) -> list[str]:
    """Return the questions of a file that have 6 to 20 words, each once, in an order drawn once."""
    with lzma.open(source, "rt", encoding="utf-8") as lines:
        asked = dict.fromkeys(" ".join(json.loads(line)["question"].split()) for line in lines)
    chosen = [
        question
        for question in asked
        if question.endswith("?") and 6 <= len(question.split()) <= 20
    ]
    random.Random(1).shuffle(chosen)
    return chosen


def main(source: Path, directory: Path, count: int) -> None:
    """Write the three files."""
    asked = questions(source)
    directory.mkdir(parents=True, exist_ok=True)
    parts = {
        "test": (0, TEST),
        "validation": (TEST, VALIDATION),
        "train": (TEST + VALIDATION, count),
    }
    for name, (first, size) in parts.items():
        chosen = asked[first : first + size]
        (directory / f"{name}.txt").write_text(
            "".join(question + "\n" for question in chosen), encoding="utf-8"
        )
    print(f"{len(asked)} questions, {count} to learn from", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="FILE")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument("count", type=int, metavar="COUNT")
    main(**vars(parser.parse_args()))
