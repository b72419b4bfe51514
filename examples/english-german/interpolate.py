"""Write the student's targets: the teacher's translations, or references that are near to them.

    python interpolate.py SOURCE REFERENCE TRANSLATION DIRECTORY

The three files are parallel. A source that is written several times has several references; the
one nearest to the teacher's translation is taken, so that every source keeps a single target. After
Kim and Rush (2016, section 3.3, sequence-level interpolation), with the reference itself in the
place of a hypothesis of the beam: a reference that says the same in nearly the same words is as
easy to predict as the translation and free of the teacher's mistakes; one that is free stays out.
Written are DIRECTORY/train.en and train.de.
"""

from __future__ import annotations

import argparse
import collections
import sys
from pathlib import Path

NEAR = 0.6
"""Similarity from which a reference replaces the translation."""

NEAR_SHORT = 0.3
"""The same for a source of few words: labels and exclamations, where a teacher guesses most."""

FEW_WORDS = 3
ORDERS = (1, 2, 3, 4, 5)


def similarity(first: str, second: str) -> float:
    """Return the mean F1 of the character n-grams of two texts, from 0 to 1 (as chrF, beta 1)."""
    if first == second:
        return 1.0
    scores = []
    for order in ORDERS:
        counted = [
            collections.Counter(text[i : i + order] for i in range(len(text) - order + 1))
            for text in (f" {first} ", f" {second} ")
        ]
        total = sum(counted[0].values()) + sum(counted[1].values())
        scores.append(2 * sum((counted[0] & counted[1]).values()) / total if total else 0.0)
    return sum(scores) / len(scores)


def main(source: str, reference: str, translation: str, directory: str) -> None:
    """Write the targets and say on standard error how many are references."""
    texts = [
        Path(path).read_text(encoding="utf-8").split("\n")[:-1]
        for path in (source, reference, translation)
    ]
    references: dict[str, list[str]] = {}
    translations: dict[str, str] = {}
    for one_source, one_reference, one_translation in zip(*texts, strict=True):
        references.setdefault(one_source, []).append(one_reference)
        translations.setdefault(one_source, one_translation)
    targets = []
    taken = 0
    for text, translated in translations.items():
        rated = [(similarity(each, translated), each) for each in references[text]]
        score, nearest = max(rated, key=lambda pair: pair[0])
        near = NEAR_SHORT if len(text.split()) <= FEW_WORDS else NEAR
        targets.append(nearest if score >= near else translated)
        taken += score >= near
    Path(directory).mkdir(parents=True, exist_ok=True)
    for name, lines in (("train.en", translations), ("train.de", targets)):
        (Path(directory) / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    print(f"{taken:,} of {len(targets):,} targets are references", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("reference", metavar="REFERENCE")
    parser.add_argument("translation", metavar="TRANSLATION")
    parser.add_argument("directory", metavar="DIRECTORY")
    main(**vars(parser.parse_args()))
