"""Measure how often BM25 finds the part of a meeting that a question is about.

    python meetings.py FILE.jsonl.xz OUTPUT [WORDS]

FILE has QMSum's meetings, with the turns that each specific question is about. A transcript is cut
into windows of WORDS words (200) that share half of them. Of the windows picked `hit` counts the
questions where one has its middle in a relevant turn, `covered` the share of the relevant
characters that are in one. To compare: the first windows, and windows drawn at random.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from multistride.files import sha256, write_json
from multistride.tasks.answering.passages import retrieved, windows
from multistride.version import __version__

COUNTS = (1, 3, 5)


def main(source: Path, output: Path, words: int) -> None:
    with lzma.open(source, "rt", encoding="utf-8") as lines:
        meetings = [json.loads(line) for line in lines]
    chance = random.Random(1)
    rows: dict[str, list[tuple[float, float]]] = {}
    asked = 0
    for text, cut, question, relevant in questions(meetings, words):
        asked += 1
        most = min(max(COUNTS), len(cut))
        ways = {
            "BM25": retrieved(question, [text[first:last] for first, last in cut], most),
            "first": list(range(most)),
            "random": chance.sample(range(len(cut)), most),
        }
        for name, places in ways.items():
            for count in COUNTS:
                picked = [cut[place] for place in places[:count]]
                rows.setdefault(f"{name}, {count}", []).append(judged(picked, relevant))
    figures = {
        name: {"hit": mean(row[0] for row in own), "covered": mean(row[1] for row in own)}
        for name, own in rows.items()
    }
    facts = {
        "multistride": __version__,
        "source": source.name,
        "sha256": sha256(source),
        "words": words,
    }
    write_json(
        output,
        {**facts, "meetings": len(meetings), "questions": asked, "seed": 1, "results": figures},
    )
    print(json.dumps(figures, indent=2))


Places = list[tuple[int, int]]
"""Parts of a text, from character to character."""


def questions(
    meetings: Sequence[Mapping[str, Any]], words: int
) -> Iterator[tuple[str, Places, str, Places]]:
    """The transcript, its windows, a question, and the parts it is about."""
    for meeting in meetings:
        turns = [
            f"{turn['speaker']}: {' '.join(turn['content'].split())}"
            for turn in meeting["meeting_transcripts"]
        ]
        text, borders = "\n".join(turns), [0]
        for turn in turns:
            borders.append(borders[-1] + len(turn) + 1)
        cut: Places = []
        for window in windows(text, words):
            first = text.find(window, cut[-1][0] + 1 if cut else 0)
            cut.append((first, first + len(window)))
        for asked in meeting["specific_query_list"]:
            spans = [
                (int(first), min(int(last), len(turns) - 1))
                for first, last in asked["relevant_text_span"]
            ]
            yield (
                text,
                cut,
                asked["query"],
                [(borders[first], borders[last + 1]) for first, last in spans],
            )


def judged(picked: Places, relevant: Places) -> tuple[float, float]:
    """Whether the middle of a window is in a relevant part, and how much of those is in a
    window.
    """
    middles = [(first + last) / 2 for first, last in picked]
    hit = any(first <= middle < last for middle in middles for first, last in relevant)
    return float(hit), length(both(joined(picked), joined(relevant))) / max(
        1, length(joined(relevant))
    )


def joined(parts: Places) -> Places:
    """The same characters in parts that do not overlap, in order."""
    found: Places = []
    for first, last in sorted(parts):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return found


def both(left: Places, right: Places) -> Places:
    """What two lists of parts have in common."""
    return [
        (max(first, begin), min(last, end))
        for first, last in left
        for begin, end in right
        if max(first, begin) < min(last, end)
    ]


def length(parts: Places) -> int:
    return sum(last - first for first, last in parts)


def mean(values: Iterator[float]) -> float:
    listed = list(values)
    return round(sum(listed) / len(listed), 4)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="FILE")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    parser.add_argument("words", type=int, nargs="?", default=200, metavar="WORDS", help="(200)")
    main(**vars(parser.parse_args()))
