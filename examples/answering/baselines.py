"""Measure what is reached without a model on questions about passages, and with choices.

    python baselines.py TEST CHOICES_TEST CHOICES_TRAIN OUTPUT

Chance is the mean of one over the number of choices; the most frequent answer is the choice that is
right most often among the questions to learn from.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multistride.files import sha256, write_json
from multistride.tasks.answering.lexical import best_sentence, most_frequent_span, typed_span
from multistride.tasks.answering.question import ENCODER, AnsweringTask
from multistride.tasks.record import Answer
from multistride.version import __version__

WAYS = {
    "best sentence": best_sentence,
    "typed span": typed_span,
    "most frequent span": most_frequent_span,
}

Record = Mapping[str, Any]


def main(test: Path, choices: Path, learned: Path, output: Path) -> None:
    asked, chosen = records_of(test), records_of(choices)
    counted = Counter(record["answer"] for record in records_of(learned))
    passages = {name: taken(way, asked) for name, way in WAYS.items()}
    by_choice = {
        "longest choice": picked(len, chosen),
        "shortest choice": picked(lambda choice: -len(choice), chosen),
        "most frequent answer": picked(lambda choice: counted[choice], chosen),
    }
    by_choice["chance"] = {
        "accuracy": sum(1 / len(each["choices"]) for each in chosen) / len(chosen)
    }
    sources = {
        path.name: {"sha256": sha256(path), "records": len(records_of(path))}
        for path in (test, choices, learned)
    }
    result = {
        "multistride": __version__,
        "sources": sources,
        "passages": passages,
        "choices": by_choice,
    }
    write_json(output, result)
    print(json.dumps({"passages": passages, "choices": by_choice}, indent=2))


def records_of(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def taken(way: Callable[[str, str], str], records: Sequence[Record]) -> dict[str, float]:
    """The figures of answers out of passages."""
    answers = [Answer(way(record["question"], record["passage"])) for record in records]
    return AnsweringTask(ENCODER).metrics(answers, records)


def picked(rank: Callable[[str], float], records: Sequence[Record]) -> dict[str, float]:
    """The figures of the choices of the highest rank; of several the first."""
    answers = [Answer(max(record["choices"], key=rank)) for record in records]
    return AnsweringTask(ENCODER).metrics(answers, records)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("test", type=Path, metavar="TEST")
    parser.add_argument("choices", type=Path, metavar="CHOICES_TEST")
    parser.add_argument("learned", type=Path, metavar="CHOICES_TRAIN")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    main(**vars(parser.parse_args()))
