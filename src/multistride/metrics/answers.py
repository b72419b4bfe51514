"""Exact match and F1 of short answers, as SQuAD defines them.

Before that a text is lower-cased, loses its ASCII punctuation and the words a, an and the, and its
blanks become one each. Both figures are the best over all right answers. Source: Rajpurkar et al.
2016, arXiv 1606.05250, section 6.1, and the evaluation script that came with version 1.1. Words are
what stands between blanks, so F1 says little of languages that are written without any.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(text: str) -> str:
    """Return the text as it is compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(given: str, right: Sequence[str]) -> float:
    """Return 1 where `given` is one of the right answers, else 0."""
    return float(any(normalised(given) == normalised(answer) for answer in right))


def f1(given: str, right: Sequence[str]) -> float:
    """Return the largest F1 of the words of `given` and of a right answer, 0-1."""
    return max(
        (_overlap(normalised(given).split(), normalised(answer).split()) for answer in right),
        default=0.0,
    )


def _overlap(given: list[str], right: list[str]) -> float:
    if not given or not right:
        return float(given == right)
    common = (Counter(given) & Counter(right)).total()
    return 2 * common / (len(given) + len(right))
