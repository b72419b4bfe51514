"""Write targets for a last stage: the teacher's translation where the model says the same.

    python agreed.py TEXT OWN TARGETS INTERFACE DIRECTORY [--common SIMILARITY]

TEXT holds `train.en`, `train.de` and the teacher's `train.distilled.de`; OWN is the model's own
translation of the sources, `OWN.en` and `OWN.de`; TARGETS holds `train.en` and `train.de` of
`interpolate.py`, INTERFACE what `interface.py` wrote. Written are DIRECTORY/train.en and train.de:
every pair of these two as often as they have it, with another target.

References say in many ways what a model would say in one, which costs most at large K. A source
that is written once and has one reference gets the teacher's translation, if that is nearer to the
model's own than the reference is, nearly the same, and has something in common with the reference:
what both models say is seldom wrong, and easy to learn. Other sources get the reference that is
nearest to the model's own translation.

With the model's own translation in the teacher's place (a copy of it as `train.distilled.de`) and
`--common 0.5`, K > 1 learns what K=1 writes, wherever that is near to a reference.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from interpolate import similarity

AGREED, COMMON = 0.8, 0.3
"""Similarity of the two translations, and of the teacher's with the reference (unless `--common`
says another), from which it is taken.
"""

WORDS = 4
"""Shorter sources keep their reference: they are what people type first."""


def lines(path: Path) -> list[str]:
    """Return the lines of a file."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def target(
    references: list[str], teacher: str, own: str, may_differ: bool, common: float = COMMON
) -> str:
    """Return what to learn: the teacher's translation if it may be, else a reference."""
    near, reference = max((similarity(each, own), each) for each in dict.fromkeys(references))
    if not may_differ or near >= AGREED:
        return reference
    agreed = similarity(teacher, own)
    taken = agreed >= AGREED and agreed > near and similarity(teacher, reference) >= common
    return teacher if taken else reference


def main(
    text: Path, own: Path, targets: Path, interface: Path, directory: Path, common: float
) -> None:
    """Write the targets."""
    references: dict[str, list[str]] = {}
    teacher: dict[str, str] = {}
    names = ("train.en", "train.de", "train.distilled.de")
    for source, reference, translation in zip(*(lines(text / name) for name in names), strict=True):
        references.setdefault(source, []).append(reference)
        teacher.setdefault(source, translation)
    sides = (lines(own.with_name(f"{own.name}.{language}")) for language in ("en", "de"))
    translated = dict(zip(*sides, strict=True))
    known: dict[str, str] = {}
    copies: Counter[str] = Counter()
    for place in (targets / "train", interface / "interface"):
        sources, reused = (lines(place.with_name(f"{place.name}.{each}")) for each in ("en", "de"))
        copies.update(sources)
        known |= dict(zip(sources, reused, strict=True))
    pairs = []
    for source, count in copies.items():
        own_text = translated.get(source)
        chosen = known[source]
        if source in references and own_text:
            several = count > 1 or len(set(references[source])) > 1
            short = len(source.split()) < WORDS
            may_differ = not (several or short)
            chosen = target(references[source], teacher[source], own_text, may_differ, common)
        pairs += [(source, chosen)] * count
    directory.mkdir(parents=True, exist_ok=True)
    for name, side in (("train.en", 0), ("train.de", 1)):
        (directory / name).write_text("".join(f"{pair[side]}\n" for pair in pairs), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("text", "own", "targets", "interface", "directory"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    parser.add_argument("--common", type=float, default=COMMON, metavar="SIMILARITY")
    main(**vars(parser.parse_args()))
