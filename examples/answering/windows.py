"""Cut the sentences around an answer, to learn from."""

from __future__ import annotations

import random
import re

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(]?[A-Z0-9])")


def window(passage: str, start: int, end: int, longest: int, chance: random.Random) -> str:
    """Whole sentences around the characters `start` to `end`, about `longest` words at most, grown
    by chance.
    """
    borders = [0, *(match.end() for match in SENTENCE_END.finditer(passage)), len(passage)]
    first = max(place for place, border in enumerate(borders) if border <= start)
    last = min(place for place, border in enumerate(borders) if border >= end)
    while (sides := [first > 0, last < len(borders) - 1]) != [False, False]:
        left = sides[0] and (not sides[1] or chance.random() < 0.5)
        wider = (first - 1, last) if left else (first, last + 1)
        if len(passage[borders[wider[0]] : borders[wider[1]]].split()) > longest:
            break
        first, last = wider
    return passage[borders[first] : borders[last]].strip()
