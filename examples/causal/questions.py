"""Questions as prompts: 100 for testing, 40 for validation, the others to learn from.

usage: questions.py FILE DIRECTORY COUNT

FILE is a .jsonl.xz with a question in the field "question" of each line. No question is in two of
the files.
"""

from __future__ import annotations

import json
import lzma
import random
import sys
from pathlib import Path

TEST, VALIDATION = 100, 40


def main() -> None:
    source, directory, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    with lzma.open(source, "rt", encoding="utf-8") as lines:
        asked = dict.fromkeys(" ".join(json.loads(line)["question"].split()) for line in lines)
    questions = [
        question
        for question in asked
        if question.endswith("?") and 6 <= len(question.split()) <= 20
    ]
    random.Random(1).shuffle(questions)
    directory.mkdir(parents=True, exist_ok=True)
    parts = {
        "test": (0, TEST),
        "validation": (TEST, VALIDATION),
        "train": (TEST + VALIDATION, count),
    }
    for name, (first, size) in parts.items():
        chosen = questions[first : first + size]
        (directory / f"{name}.txt").write_text(
            "".join(question + "\n" for question in chosen), encoding="utf-8"
        )
    print(f"{len(questions)} questions, {count} to learn from", file=sys.stderr)


if __name__ == "__main__":
    main()
