"""Write the targets of the last stages: references for short sentences, and these as people type
them.

    python as_typed.py AGREED TARGETS INTERFACE DIRECTORY [--without FILE ...]

AGREED is what `agreed.py` wrote, TARGETS and INTERFACE what it was made of.

DIRECTORY/train.en and train.de are every pair of AGREED; and once each, sentences of up to three
words and those of up to six that are all common, with the other mark (. or !), without a mark, and
without a mark and a capital. Left out are those that stand in a FILE of held-out sentences.

DIRECTORY/first.en and first.de, for a short stage at the end, are what people type first: such
pairs of up to four words eight times, as they are typed four times, and some longer ones and
interface texts, so that the model forgets nothing.

A source of up to eight words gets its reference: where teacher and model agree on a short sentence,
they may both be wrong in the same way ("Wann ist es?" for "What time is it?").
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from agreed import lines

Pair = tuple[str, str]

WORD = re.compile(r"[a-z']+")
UNUSUAL = re.compile(r"[…—:;“”\d(]")
COMMON, FEW, FIRST, SHORT, REFERRED = 600, 3, 4, 6, 8
"""Most frequent words that are common, and words of sentences: always taken, typed first, short,
with a reference."""

OTHERS, INTERFACE_TEXTS = 60_000, 12_000
"""Longer pairs and interface texts that are drawn for the last stage."""

NAMES = {"tom", "mary"}
"""Common in Tatoeba alone."""

MARKS = ".", "!", "?"

ANSWERS = {"Yes": "Ja", "No": "Nein", "Oh": "Oh", "OK": "OK", "Well": "Nun"}
FORMAL = {"Sie", "Ihr", "Ihre", "Ihnen"}
"""First words that a capital makes polite: without it they say something else."""

ANSWERED = 1 / 3
"""Share of the short statements that are written as an answer, too."""


def is_basic(source: str, common: set[str]) -> bool:
    """Return True for a sentence of few words, or of a few more that are all common."""
    if not (source[:1].isupper() and source.endswith(MARKS)) or UNUSUAL.search(source):
        return False
    words = WORD.findall(source.lower())
    if 0 < len(words) <= FEW and not NAMES & set(words):
        return True
    return 0 < len(words) <= SHORT and set(words) <= common


def typed(source: str, target: str) -> Iterator[Pair]:
    """Yield a pair as it may be typed, too."""
    mark = source[-1]
    if mark == target[-1] and mark in ".!":
        other = "!" if mark == "." else "."
        yield source[:-1] + other, target[:-1] + other
    bare = source, target
    if mark in ".!":
        bare = source[:-1], target[:-1]
        yield bare
    lower = bare[0] if source.startswith(("I ", "I'")) else bare[0][:1].lower() + bare[0][1:]
    yield lower, bare[1]


def inside(texts: list[str]) -> Counter[str]:
    """Return how often each word stands inside a sentence, but not at its beginning."""
    return Counter(
        word.strip(",.!?;:")
        for text in texts
        for before, word in pairwise(text.split())
        if before[-1] not in ".!?:–-" and word[0] not in '"„“»'
    )


def begun(text: str, counts: Counter[str]) -> str:
    """Return a sentence as it stands behind a comma: its capital goes, unless it is a name's."""
    first = text.split()[0].strip(",.!?;:")
    lower = first[:1].lower() + first[1:]
    return text[:1].lower() + text[1:] if counts[lower] > counts[first] else text


def answered(
    pairs: list[Pair], english: Counter[str], german: Counter[str], chance: random.Random
) -> Iterator[Pair]:
    """Yield some statements as answers."""
    for source, target in pairs:
        first = WORD.search(source.lower())
        said = first is None or first[0] in {"yes", "no", "oh", "ok", "well", "please", "hello"}
        if source.endswith("?") or said or FORMAL & set(target.split()[:1]):
            continue
        if chance.random() < ANSWERED:
            yes = chance.choice(list(ANSWERS))
            yield f"{yes}, {begun(source, english)}", f"{ANSWERS[yes]}, {begun(target, german)}"


def main(
    agreed: Path, targets: Path, interface: Path, directory: Path, without: list[Path]
) -> None:
    """Write the pairs."""
    references: dict[str, str] = {}
    for place in (targets / "train", interface / "interface"):
        sides = (lines(place.with_name(f"{place.name}.{each}")) for each in ("en", "de"))
        references |= dict(zip(*sides, strict=True))
    read = zip(lines(agreed / "train.en"), lines(agreed / "train.de"), strict=True)
    pairs = [
        (source, references.get(source, target) if len(source.split()) <= REFERRED else target)
        for source, target in read
    ]
    known = dict.fromkeys(source for source, _ in pairs)  # no set: its order changes with the run
    left_out = known.keys() | {line for path in without for line in lines(path)}
    counts = Counter(word for source in known for word in WORD.findall(source.lower()))
    common = {word for word, _ in counts.most_common(COMMON)} - NAMES
    basic = dict.fromkeys(
        pair for pair in pairs if is_basic(pair[0], common) and pair[1].endswith(MARKS)
    )
    varied = [each for pair in basic for each in typed(*pair) if each[0] not in left_out]
    chance = random.Random(7)
    english, german = inside([source for source, _ in pairs]), inside([each for _, each in pairs])
    labels = set(lines(interface / "interface.en"))
    said = [pair for pair in basic if pair[0] not in labels]
    answers = [pair for pair in answered(said, english, german, chance) if pair[0] not in left_out]
    varied += [each for pair in answers for each in (pair, *typed(*pair))]
    written = [*pairs, *varied]
    directory.mkdir(parents=True, exist_ok=True)
    write(directory / "train", written, chance)
    first = [pair for pair in basic if len(pair[0].split()) <= FIRST]
    first_varied = [each for pair in first for each in typed(*pair) if each[0] not in left_out]
    first_varied += [pair for pair in answers if len(pair[0].split()) <= FIRST]
    longer = [pair for pair in written if len(pair[0].split()) > FIRST]
    texts = [
        pair for pair in written if not pair[0].endswith(MARKS) and len(pair[0].split()) < SHORT
    ]
    others = (
        pair
        for kind, count in ((longer, OTHERS), (texts, INTERFACE_TEXTS))
        for pair in chance.sample(kind, min(count, len(kind)))
    )
    write(directory / "first", [*first * 8, *first_varied * 4, *others], chance)
    print(f"{len(basic)} short sentences, {len(varied)} as they are typed, {len(written)} in all")


def write(place: Path, pairs: list[Pair], chance: random.Random) -> None:
    """Write pairs in random order."""
    chance.shuffle(pairs)
    for name, side in (("en", 0), ("de", 1)):
        text = "".join(pair[side] + "\n" for pair in pairs)
        place.with_name(f"{place.name}.{name}").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("agreed", "targets", "interface", "directory"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    parser.add_argument("--without", type=Path, nargs="+", default=[], metavar="FILE")
    main(**vars(parser.parse_args()))
