"""Write questions with passages and questions with choices as records: one JSON object a line.

    python corpus.py DATA DIRECTORY [LANGUAGE]

Reads DATA/xquad/xquad.LANGUAGE.json.xz (SQuAD's format; en) and DATA/opentriviaqa/trivia.jsonl.xz.
The articles of XQuAD are shuffled and divided whole: 12 to test, 4 to validate, the others to learn
from, so no article is in two files. Of the questions of OpenTriviaQA that have four choices 400 are
drawn to test.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

TEST, VALIDATION = 12, 4
CHOICES = 400


def main(data: Path, directory: Path, language: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with lzma.open(data / "xquad" / f"xquad.{language}.json.xz", "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    random.Random(1).shuffle(articles)
    parts = {"test": articles[:TEST], "validation": articles[TEST : TEST + VALIDATION]}
    for name, part in {**parts, "train": articles[TEST + VALIDATION :]}.items():
        write(
            directory / f"{name}.jsonl",
            [record for article in part for record in records_of(article)],
        )
    trivia = data / "opentriviaqa" / "trivia.jsonl.xz"
    if trivia.exists():
        write_choices(trivia, directory)


def records_of(article: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The questions of one article."""
    for paragraph in article["paragraphs"]:
        for asked in paragraph["qas"]:
            answers = list(dict.fromkeys(answer["text"] for answer in asked["answers"]))
            start = asked["answers"][0]["answer_start"]
            known = {
                "id": asked["id"],
                "article": article["title"],
                "passage": paragraph["context"],
            }
            yield {**known, "question": asked["question"], "answers": answers, "start": start}


def write_choices(path: Path, directory: Path) -> None:
    """Questions with four choices that stand for themselves, each once."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        asked = {
            record["question"]: record
            for record in map(json.loads, lines)
            if len(set(record["choices"])) == 4
        }
    questions = sorted(asked.values(), key=lambda record: record["question"])
    random.Random(1).shuffle(questions)
    write(directory / "choices.test.jsonl", questions[:CHOICES])
    write(directory / "choices.train.jsonl", questions[CHOICES:])


def write(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")
    print(f"{path}: {len(lines)} records", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument("language", nargs="?", default="en", metavar="LANGUAGE", help="(en)")
    main(**vars(parser.parse_args()))
