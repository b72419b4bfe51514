"""Long passages: their windows, and the windows that a question is probably about."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from typing import Any

from multistride.data.documents import spans
from multistride.decode.spans import borders
from multistride.errors import MissingExtraError


def windows(passage: str, words: int) -> list[str]:
    """Return windows of at most `words` words, each sharing half of them with the one before.

    Signs between words count as words too, and so do the characters of scripts without blanks.
    """
    starts = _word_starts(passage)
    ends = [*starts[1:], len(passage)]
    cut = spans(len(starts), words, words // 2) if starts else ()
    return [passage[starts[part.start] : ends[part.stop - 1]].strip() for part in cut]


def word_count(passage: str) -> int:
    """Return the number of words of a passage, as `windows` counts them."""
    return len(_word_starts(passage))


def retrieved(question: str, texts: Sequence[str], count: int) -> list[int]:
    """Return the indices of the texts that share most with the question by BM25.

    Of texts that share as much the earlier ones come first. Source: Robertson and Zaragoza 2009,
    "The probabilistic relevance framework", with the variant and the constants of bm25s. Raises
    `MissingExtraError` without that.
    """
    if len(texts) <= count:
        return list(range(len(texts)))
    index = _bm25s().BM25()
    index.index([words_of(text) or [""] for text in texts], show_progress=False)
    known = [word for word in words_of(question) if word in index.vocab_dict]
    scores = index.get_scores(known) if known else [0.0] * len(texts)
    return sorted(range(len(texts)), key=lambda place: (-scores[place], place))[:count]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; characters of scripts without blanks are words."""
    lowered = text.lower()
    pieces = (lowered[first:last] for first, last in pairwise(borders(lowered)))
    return [piece for piece in pieces if piece[0].isalnum()]


@lru_cache(maxsize=1)
def _word_starts(passage: str) -> list[int]:
    """Return the indices of characters where words begin; cached, as windows shrink."""
    return [
        place for place in borders(passage) if place < len(passage) and not passage[place].isspace()
    ]


def _bm25s() -> Any:
    try:
        return import_module("bm25s")
    except ImportError as error:
        raise MissingExtraError(
            "looking for the windows of a long passage needs bm25s: pip install "
            "'multistride[tasks]'"
        ) from error
