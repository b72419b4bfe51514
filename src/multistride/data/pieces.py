"""Pieces of a vocabulary as a person reads them: joined into words, group by group."""

from __future__ import annotations

import re
from collections.abc import Sequence

LINK = "‿"
"""Stands before a group that goes on with the word the group before it began."""

GROUP_BAR = " │ "
"""Stands between two groups."""

# How a piece says "a new word starts here": our own blank, SentencePiece's U+2581, raw byte-level
# BPE's U+0120.
_WORD_STARTS = (" ", "▁", "Ġ")
_SPECIAL_PIECE = re.compile(r"<[^<>\s]+>")


def group_texts(groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """One readable string per group of pieces, in order.

    Pieces that mark the start of a word are joined into words, and a group that begins inside a
    word starts with `LINK`. Pieces without such marks (phonemes, whole words) are joined with
    spaces.
    """
    marked = any(piece.startswith(_WORD_STARTS) for group in groups for piece in group)
    if not marked:
        return tuple(" ".join(group) for group in groups)
    return tuple(_join_marked(group, first=index == 0) for index, group in enumerate(groups))


def _join_marked(pieces: Sequence[str], *, first: bool) -> str:
    """Join the pieces of one group into words, showing where it continues the word before it."""
    joined = ""
    for piece in pieces:
        if piece.startswith(_WORD_STARTS):
            joined += f" {piece[1:]}"
        elif _SPECIAL_PIECE.fullmatch(piece):
            joined += f" {piece}"
        else:
            inside_word = not joined and not first and any(map(str.isalnum, piece))
            joined += f"{LINK}{piece}" if inside_word else piece
    return joined.strip()
