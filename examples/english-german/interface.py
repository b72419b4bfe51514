"""Write the interface text of the training corpus once more, to weigh it, and in informal German.

    python interface.py DATA TEXT TARGETS DIRECTORY

DATA holds the corpora, TEXT what `corpus.py` wrote, TARGETS `train.en` and `train.de` of
`interpolate.py`. Written are DIRECTORY/interface.en and interface.de, to be prepared beside
TARGETS (`multistride prepare --keep-duplicates`):

- sentences of the interface twice, labels of three to six words once, with the targets of TARGETS;
- pairs of LibreOffice that address the reader formally (Sie), which `corpus.py` leaves out, made
  informal (du) where rules can do it: sentences three times, labels twice. German has its verb
  before "Sie" in requests and questions, so that the form before it becomes "Wähle", "Gib",
  "Möchtest du"; a pair where any "Sie" is left, or a verb that shares one with another, stays out.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from corpus import FORMAL, LONG_WORDS, Pair, libreoffice, pairs, write

FINITE = {
    "dürfen": "darfst",
    "haben": "hast",
    "hatten": "hattest",
    "können": "kannst",
    "könnten": "könntest",
    "möchten": "möchtest",
    "müssen": "musst",
    "müssten": "müsstest",
    "sind": "bist",
    "sollen": "sollst",
    "sollten": "solltest",
    "werden": "wirst",
    "wollen": "willst",
}
"""Verbs that are no request before or behind "Sie", and their forms with "du"."""

REQUESTS = {
    "entnehmen": "entnimm",
    "ersehen": "ersieh",
    "geben": "gib",
    "halten": "halte",
    "helfen": "hilf",
    "lesen": "lies",
    "nehmen": "nimm",
    "sehen": "sieh",
    "sprechen": "sprich",
    "treffen": "triff",
    "tun": "tu",
    "vergessen": "vergiss",
    "werfen": "wirf",
    "übernehmen": "übernimm",
}
"""Irregular imperatives; others lose the last letters of the infinitive."""

BEGINS = r"(^|[.!?:] |\bBitte |\bbitte |, |\bund |\boder |\bdann |- )"
"""What a request stands behind."""

USUAL = 3
"""A verb that is asked for so often is taken for a request without its "Sie", too."""


def as_in(word: str, example: str) -> str:
    """Return the word with a capital if the example has one."""
    return word[:1].upper() + word[1:] if example[:1].isupper() else word


def request(verb: str) -> str | None:
    """Return the imperative (du) of an infinitive; None of one that is no request."""
    if verb in FINITE:
        return None
    if verb in REQUESTS:
        return REQUESTS[verb]
    if verb.endswith("eln"):
        return verb[:-3] + "le"
    if verb.endswith("ern"):
        return verb[:-1] + "e"
    return verb[:-1] if verb.endswith("en") else None


def informal(text: str) -> str | None:
    """Return a German text with "du" in place of "Sie"; None where the rules do not reach."""
    if re.search(r"\bsich\b|\bselbst\b", text):
        return None
    verbs = "|".join([*FINITE, *(verb.capitalize() for verb in FINITE)])

    def asked(match: re.Match[str]) -> str:
        made = request(match[2].lower())
        if made is None:
            return match[0]
        please = " bitte" if match[0].endswith(" bitte") else ""
        return match[1] + as_in(made, match[2]) + please

    def stated(match: re.Match[str]) -> str:
        before = text_now[max(match.start() - 2, 0) : match.start()].strip()
        first = match.start() == 0 or before in (".", "!", "?", ":")
        return f"{'Du' if first else 'du'} {FINITE[match[1]]}"

    text_now = re.sub(
        rf"\b({verbs}) Sie\b", lambda m: as_in(FINITE[m[1].lower()], m[1]) + " du", text
    )
    text_now = re.sub(rf"{BEGINS}(\w+n) Sie\b(?: bitte)?", asked, text_now)
    text_now = re.sub(rf"\bSie ({'|'.join(FINITE)})\b", stated, text_now)
    text_now = re.sub(r"\bIhnen\b", "dir", text_now)
    text_now = re.sub(
        r"\bIhr(e[nmrs]?)?\b",
        lambda m: ("Dein" if m.start() == 0 else "dein") + (m[1] or ""),
        text_now,
    )
    return None if re.search(r"\bSie\b", text_now) else text_now


def made_informal(data: Path, known: set[str]) -> Iterator[Pair]:
    """Yield the formal pairs of LibreOffice in informal German, one for each source."""
    formal = [
        pair
        for name in ("ui", "help")
        for pair in pairs(data / "libreoffice" / f"{name}.en-de.tsv.xz", (0, 1))
        if pair[0] != pair[1] and FORMAL.search(pair[1])
    ]
    counts = Counter(
        verb.lower() for _, target in formal for verb in re.findall(r"(\w+en) Sie\b", target)
    )
    usual = {verb for verb, count in counts.items() if count >= USUAL}
    seen = set(known)
    for source, target in formal:
        if source in seen or len(source.split()) > LONG_WORDS:
            continue
        made = informal(target)
        if made is None or usual & set(re.findall(r"(?:und|oder|,) (\w+en)\b(?! du)", made)):
            continue
        seen.add(source)
        yield source, made


def is_sentence(source: str, least: int) -> bool:
    """Return whether a source is a sentence of so many words at least."""
    return source[-1:] in ".?!" and len(source.split()) >= least


def main(data: Path, text: Path, targets: Path, directory: Path) -> None:
    """Write the pairs, as often as they are to weigh more."""
    held_out = {
        source
        for name in ("validation", "test-tatoeba", "test-suttacentral")
        for source in (text / f"{name}.en").read_text(encoding="utf-8").split("\n")
    }
    interface = {
        source for source, _ in pairs(data / "permissive-ui-strings" / "train.en-de.tsv.xz", (1, 2))
    }
    interface |= {source for source, _ in libreoffice(data)}
    sources, translations = (
        (targets / f"train.{language}").read_text(encoding="utf-8").split("\n")[:-1]
        for language in ("en", "de")
    )
    chosen = dict(zip(sources, translations, strict=True))
    written: list[Pair] = []
    for pair in chosen.items():
        words = len(pair[0].split())
        if pair[0] in interface and words <= LONG_WORDS:
            written += [pair] * (2 if is_sentence(pair[0], 3) else 1 if 3 <= words <= 6 else 0)
    for pair in made_informal(data, held_out):
        if pair[0] not in chosen:
            written += [pair] * (3 if is_sentence(pair[0], 3) else 2)
    directory.mkdir(parents=True, exist_ok=True)
    write(directory, "interface", written)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("data", "text", "targets", "directory"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    main(**vars(parser.parse_args()))
