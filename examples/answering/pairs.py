"""Write pairs to learn answering from: a question with sentences around its answer; the answer.

    python pairs.py RECORDS DATA OUTPUT [CLOZES]

There are few questions, so each is written eight times with other sentences of its passage around
the answer, and CLOZES (24000) questions are made of the addresses in DATA/sotu/sotu.jsonl.xz: a
number or a name is taken out of a sentence, and what is left of it asks for it (Lewis, Denoyer and
Riedel 2019, arXiv 1906.04980, section 2, whose noisy clozes do without a parser). They teach to
look for words of the question and to copy what stands beside them.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from windows import SENTENCE_END, window

from multistride.files import replacing_file
from multistride.tasks.answering.question import ENCODER

COPIES = 8
LONGEST = 50
"""Words of a window, about: what a small encoder learns to look through in little time."""

NUMBER = r"\$?\d[\d,.]*\d(?: (?:millions?|thousand|per cent))?"
NAME = r"(?:[A-Z][a-z]+ (?:of )?)*[A-Z][a-z]{2,}"
WANTED = re.compile(rf"(?<=[a-z,] )(?:{NUMBER}|{NAME})(?=[\s,;.])")
"""What a cloze asks for: a number, or words with capital letters that do not begin the sentence."""


def main(source: Path, data: Path, output: Path, clozes: int) -> None:
    chance = random.Random(1)
    records = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    with replacing_file(output) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for record in [*records * COPIES, *made(data / "sotu" / "sotu.jsonl.xz", clozes, chance)]:
            start, answer = record["start"], record["answers"][0]
            passage = window(record["passage"], start, start + len(answer), LONGEST, chance)
            pair = {
                "source": ENCODER.asked(record["question"], passage),
                "target": ENCODER.written(answer),
            }
            file.write(json.dumps(pair, ensure_ascii=False) + "\n")
    print(f"{output}: {len(records) * COPIES} pairs of questions, {clozes} clozes", file=sys.stderr)


def made(path: Path, count: int, chance: random.Random) -> Iterator[dict[str, object]]:
    """`count` records with questions that nobody asked."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    paragraphs = [" ".join(part.split()) for text in texts for part in text.split("\n\n")]
    paragraphs = [
        part for part in paragraphs if 40 <= len(part.split()) <= 400 and WANTED.search(part)
    ]
    for _ in range(count):
        yield cloze(chance.choice(paragraphs), chance)


def cloze(passage: str, chance: random.Random) -> dict[str, object]:
    """One of the numbers and names of a passage, and the sentence it was taken from as a
    question.
    """
    found = chance.choice(list(WANTED.finditer(passage)))
    borders = [0, *(match.end() for match in SENTENCE_END.finditer(passage)), len(passage)]
    first = max(border for border in borders if border <= found.start())
    last = min(border for border in borders if border >= found.end())
    asks = (
        "how many" if any(map(str.isdigit, found[0])) else chance.choice(["who", "what", "which"])
    )
    before = passage[first : found.start()].split()[-chance.randint(3, 9) :]
    after = passage[found.end() : last].split()[: chance.randint(3, 9)]
    kept = [word for word in [*before, *after] if chance.random() < 0.85]
    question = " ".join([asks, *kept]).strip(" .,;") + "?"
    return {"question": question, "passage": passage, "start": found.start(), "answers": [found[0]]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="RECORDS")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    parser.add_argument("clozes", type=int, nargs="?", default=24000, metavar="CLOZES")
    main(**vars(parser.parse_args()))
