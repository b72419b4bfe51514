"""Write the student's targets: the teacher's translations, or references that are near to them.

    python interpolate.py SOURCE REFERENCE TRANSLATION DIRECTORY

The three files are parallel. A source that is written several times has several references; the
one nearest to the teacher's translation is taken, so that every source keeps a single target. After
Kim and Rush (2016, section 3.3, sequence-level interpolation), with the reference itself in the
place of a hypothesis of the beam: a reference that says the same in nearly the same words is as
easy to predict as the translation and free of the teacher's mistakes; one that is free stays out.
With `--weigh`, a source of three references and more gets the one in their middle, what people say
often weighs more (a pair is written once for each reference, four times at most, and once more if
it is a short sentence), and references may be less near. With `--correct`, every source gets the
reference nearest to its translation, unless even that has hardly anything in common with it: then
the pair is left out, as the two are probably not parallel. It weighs what people say often more
still. Use it where the translations are a small model's own, which are wrong where they are far
from every reference. Written are DIRECTORY/train.en and train.de.
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
WEIGHED_NEAR, WEIGHED_FEW_WORDS = 0.5, 5
"""In place of `NEAR` and `FEW_WORDS` with `--weigh`."""

SEVERAL, MOST_COPIES = 3, 4
PARALLEL, PARALLEL_SHORT = 0.2, 0.1
"""Similarity from which a pair is taken as parallel with `--correct`; the second for few words."""

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


def targets(
    source: str, references: list[str], translation: str, weigh: bool
) -> tuple[str | None, int]:
    """Return the reference to learn from (None: learn from the translation), and how often its
    pair is written.
    """
    different = list(dict.fromkeys(references))
    few = WEIGHED_FEW_WORDS if weigh else FEW_WORDS
    short = len(source.split()) <= few
    copies = min(len(different), MOST_COPIES) if weigh else 1
    if weigh and short and source.endswith((".", "!", "?")):
        copies += 1
    if weigh and len(different) >= SEVERAL:
        known = [*different, translation]
        return max(different, key=lambda each: sum(similarity(each, one) for one in known)), copies
    rated = [(similarity(each, translation), each) for each in different]
    score, nearest = max(rated, key=lambda pair: pair[0])
    near = NEAR_SHORT if short else WEIGHED_NEAR if weigh else NEAR
    return nearest if score >= near else None, copies


def corrected(source: str, references: list[str], translation: str) -> tuple[str | None, int]:
    """Return the reference to learn from (None: the pair is left out), and its copies."""
    different = list(dict.fromkeys(references))
    short = len(source.split()) <= WEIGHED_FEW_WORDS
    copies = min(len(different), MOST_COPIES)
    if short and source.endswith((".", "!", "?")):
        copies = max(2, copies**2)
    rated = [(similarity(each, translation), each) for each in different]
    score, nearest = max(rated, key=lambda pair: pair[0])
    return nearest if score >= (PARALLEL_SHORT if short else PARALLEL) else None, copies


def main(
    source: str, reference: str, translation: str, directory: str, weigh: bool, correct: bool
) -> None:
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
    pairs = []
    taken = 0
    for text, translated in translations.items():
        if correct:
            chosen, copies = corrected(text, references[text], translated)
        else:
            chosen, copies = targets(text, references[text], translated, weigh)
        taken += chosen is not None
        if correct and chosen is None:
            continue
        pairs += [(text, translated if chosen is None else chosen)] * copies
    Path(directory).mkdir(parents=True, exist_ok=True)
    for name, lines in zip(("train.en", "train.de"), zip(*pairs, strict=True), strict=True):
        (Path(directory) / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    print(f"{taken:,} of {len(translations):,} targets are references", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("reference", metavar="REFERENCE")
    parser.add_argument("translation", metavar="TRANSLATION")
    parser.add_argument("directory", metavar="DIRECTORY")
    parser.add_argument("--weigh", action="store_true", help="write some pairs several times")
    parser.add_argument(
        "--correct", action="store_true", help="learn from references only, and weigh them"
    )
    main(**vars(parser.parse_args()))
