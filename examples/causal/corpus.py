"""Write Austen's novels and the State of the Union addresses as documents to train and test on.

    python corpus.py DATA DIRECTORY

DATA holds `lm/austen.txt.xz` (six novels, one after the other) and `sotu/sotu.jsonl.xz` (one speech
a line). A chapter and a speech is a document; lines that were broken for print are joined,
paragraphs stay apart. Every twentieth document is for testing, every hundredth for validation; of
the test set the beginnings of paragraphs are prompts.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
import sys
from pathlib import Path

CHAPTER = re.compile(r"^ *(?:CHAPTER|Chapter) +(?:[IVXLC]+|\d+)\.?.*$", re.MULTILINE)
PROMPTS = 200
PROMPT_WORDS = 24


def joined(text: str) -> str:
    """Paragraphs, each on one line, with one blank line between them."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def documents(data: Path) -> list[str]:
    with lzma.open(data / "lm/austen.txt.xz", "rt", encoding="utf-8") as file:
        novels = file.read()
    chapters = [joined(chapter) for chapter in CHAPTER.split(novels)]
    with lzma.open(data / "sotu/sotu.jsonl.xz", "rt", encoding="utf-8") as lines:
        speeches = [joined(json.loads(line)["text"]) for line in lines]
    return [text for text in (*chapters, *speeches) if len(text.split()) > 200]


def write(path: Path, texts: list[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def prompts(texts: list[str]) -> list[tuple[str, str]]:
    """Beginnings of long paragraphs and how they go on, spread evenly over the texts."""
    found = [
        words
        for text in texts
        for words in map(str.split, text.split("\n\n"))
        if len(words) > 3 * PROMPT_WORDS
    ]
    chosen = [found[place * len(found) // PROMPTS] for place in range(PROMPTS)]
    return [
        (" ".join(words[:PROMPT_WORDS]), " " + " ".join(words[PROMPT_WORDS:])) for words in chosen
    ]


def main(data: Path, directory: Path) -> None:
    texts = documents(data)
    directory.mkdir(parents=True, exist_ok=True)
    held_out = {*range(7, len(texts), 100), *range(13, len(texts), 20)}
    write(
        directory / "train.jsonl",
        [text for place, text in enumerate(texts) if place not in held_out],
    )
    write(directory / "validation.jsonl", texts[7::100])
    write(directory / "test.jsonl", texts[13::20])
    pairs = prompts(texts[13::20])
    for name, side in (("prompts", 0), ("continuations", 1)):
        (directory / f"test.{name}.txt").write_text(
            "".join(pair[side] + "\n" for pair in pairs), encoding="utf-8"
        )
    print(
        f"{len(texts)} documents, {sum(len(text.split()) for text in texts):,} words",
        file=sys.stderr,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    main(**vars(parser.parse_args()))
