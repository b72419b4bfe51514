"""Sentences of a text, found by the marks that end them."""

from __future__ import annotations

import re
from itertools import pairwise

_END = re.compile(
    r"""(?<=[.!?…。！？])(?:["'”“’‘»«)\]]*)(?:\s+|$)"""
    r"""|(?<=[。！？])[”’」』）】]*(?=[^。！？”’」』）】\s])"""
)
"""Where a sentence may end: after its last mark and the quotes and brackets that close behind it. A
blank follows, but not where Chinese or Japanese is written."""

_ABBREVIATED = re.compile(
    r"(?:^|[\s(\"“„'.])(?:\w|\d{1,2}|Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Nr|vs|etc|al|approx|dept|est|fig"
    r"|Inc|Ltd|Co|Hr|Fr|Str|bzw|usw|ca|evtl|ggf|inkl|vgl|Abs|Art|Bd|Tel|Gen|Col|Capt|Mio|Mrd)\.$",
    re.IGNORECASE,
)
"""A period that need not end a sentence: after one letter (I.D., z. B.), an ordinal (19.), or one
of the usual abbreviations. Two sentences that are left together by mistake cost less than one that
is torn apart."""

_BEFORE_NUMBERS = re.compile(
    r"\b(?:No|pp|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Okt|Dez)\.$", re.IGNORECASE
)
"""The same where a number follows: "No." may be an answer."""

_LOOKED_BACK = 16
"""Characters before an end that are looked at: more than any abbreviation has."""


def ends_sentence(line: str) -> bool:
    """Return whether a line ends where a sentence does, so that its end can be found again."""
    return not _parts(line)[-1]


def _parts(text: str) -> list[str]:
    """Return a text cut behind every end of a sentence; the last part, after it, may be empty."""
    ends = [match.end() for match in _END.finditer(text) if _is_end(text, match)]
    places = [0, *ends, len(text)]
    return [text[first:last].strip() for first, last in pairwise(places)]


def _is_end(text: str, match: re.Match[str]) -> bool:
    quoted = bool(match[0].strip())
    head = text[max(match.start() - _LOOKED_BACK, 0) : match.start()]
    pause = head.endswith(("...", "…"))
    if (quoted or pause) and text[match.end() : match.end() + 1].islower():
        return False
    if text[match.end() : match.end() + 1].isdigit() and _BEFORE_NUMBERS.search(head):
        return False
    return not _ABBREVIATED.search(head)


def sentences_of(text: str) -> list[str]:
    """Return what is translated alone: the sentences of a text, or a blank text itself."""
    return split_sentences(text) or [text]


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, in order, without the blanks between them.

    An end is a full stop, question or exclamation mark before a blank, or a full-width mark; not
    the period of an abbreviation or an ordinal, nor an ellipsis or a closing quote before a small
    letter ("Why?" asked Tom.).
    """
    return [part for part in _parts(text) if part]
