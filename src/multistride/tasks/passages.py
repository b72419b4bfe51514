"""Passages that are longer than a model reads at once: windows, and those that a question is probably about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any

from multistride.decode.spans import borders
from multistride.errors import MissingExtraError

SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|(?<=[。！？])|\n+")
"""Where a passage is best cut."""


def windows(passage: str, words: int) -> list[str]:
    """Windows of at most `words` words, of whole sentences where they fit, each beginning halfway through the last.

    Every word is in a window, and every run of `words` / 2 words whose sentences are short is whole in one.
    """
    assert words >= 1, "a window holds a word or more"
    parts = [part for sentence in _sentences(passage) for part in _cut(sentence, max(1, words // 2))]
    found: list[str] = []
    first = 0
    while first < len(parts):
        last, count = first, 0
        while last < len(parts) and (last == first or count + len(parts[last].split()) <= words):
            count += len(parts[last].split())
            last += 1
        found.append(" ".join(parts[first:last]))
        if last == len(parts):
            break
        first = _halfway(parts, first, last, words // 2)
    return found


def retrieved(question: str, texts: Sequence[str], count: int) -> list[int]:
    """The places of the `count` texts that share most with the question by BM25, best first.

    A text that shares no word with it counts as its place says, earlier ones first. Source: Robertson and Zaragoza
    2009, with the variant and the constants of bm25s. Raises `MissingExtraError` without that.
    """
    if len(texts) <= count:
        return list(range(len(texts)))
    library = _bm25s()
    index = library.BM25()
    index.index([words_of(text) or [""] for text in texts], show_progress=False)
    known = [word for word in words_of(question) if word in index.vocab_dict]
    scores = index.get_scores(known) if known else [0.0] * len(texts)
    return sorted(range(len(texts)), key=lambda place: (-scores[place], place))[:count]


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; characters of scripts without blanks are words of their own."""
    lowered = text.lower()
    places = borders(lowered)
    pieces = (lowered[first:last] for first, last in pairwise(places))
    return [piece for piece in pieces if piece[0].isalnum()]


def _sentences(passage: str) -> list[str]:
    ends = [match.end() for match in SENTENCE_END.finditer(passage)]
    cut = (passage[first:last] for first, last in zip([0, *ends], [*ends, len(passage)], strict=True))
    return [sentence.strip() for sentence in cut if sentence.strip()]


def _cut(sentence: str, words: int) -> list[str]:
    listed = sentence.split()
    return [" ".join(listed[first : first + words]) for first in range(0, len(listed), words)]


def _halfway(parts: Sequence[str], first: int, last: int, shared_words: int) -> int:
    """Where the window after `parts[first:last]` begins: it shares at most `shared_words` words, and moves on."""
    start, shared = last, 0
    while start > first + 1 and shared + len(parts[start - 1].split()) <= shared_words:
        start -= 1
        shared += len(parts[start].split())
    return start


def _bm25s() -> Any:
    try:
        return import_module("bm25s")
    except ImportError as error:
        raise MissingExtraError(
            "looking for the windows of a long passage needs bm25s: pip install 'multistride[tasks]'"
        ) from error
