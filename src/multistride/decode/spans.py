"""A rule that copies: a sentence may only be a span of a given text, of whole words, and then it
ends.

It looks at the bytes of the text, as the rules in `wording` do: a model may cut a span into other
tokens than the text around it. One blank may stand before the span, since most tokens that begin a
word bring theirs, and an opening where a model was taught to write one.

A *border* is a place between two characters that are not both inside one word; a span goes from a
border to a border and has no blank at its ends. Characters of scripts that are written without
blanks are words of their own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from itertools import pairwise

from multistride.data.vocab import Vocabulary

Allowing = Callable[[Sequence[int]], Collection[int]]
"""The tokens written so far, to the tokens (perhaps EOS) that alone may come next; none: nothing
goes on."""

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def spans(vocabulary: Vocabulary, opening: str = "") -> Callable[[str], Allowing]:
    """From a text to the rule that writes its spans, behind `opening` and perhaps a blank.

    Raises `UsageError` for a vocabulary whose tokens do not spell text.
    """
    by_spelling: dict[bytes, list[int]] = {}
    for token, piece in enumerate(vocabulary.spellings):
        if piece:
            by_spelling.setdefault(piece, []).append(token)
    longest = max(map(len, by_spelling), default=0)
    openings = (opening.encode(), f"{opening} ".encode())

    def beginning(text: bytes) -> set[int]:
        """The tokens that spell the beginning of a text."""
        return {
            token for count in range(1, longest + 1) for token in by_spelling.get(text[:count], ())
        }

    return lambda text: _rule(
        text.strip(), vocabulary, openings, lambda rest: beginning(rest[:longest])
    )


def borders(text: str) -> list[int]:
    """The places, in characters, where a span may begin or end, the ends of the text included."""
    inside = (before and after for before, after in pairwise(map(_in_word, text)))
    return (
        [0, *(place for place, within in enumerate(inside, start=1) if not within), len(text)]
        if text
        else []
    )


def _rule(
    text: str,
    vocabulary: Vocabulary,
    openings: Sequence[bytes],
    beginning: Callable[[bytes], set[int]],
) -> Allowing:
    spelled = text.encode()
    starts, ends = _bytes_of_borders(text)

    def allowed(written: Sequence[int]) -> set[int]:
        raw, tokens = b"".join(vocabulary.spellings[token] for token in written), set[int]()
        for opening in openings:
            missing = opening[len(raw) :] if opening.startswith(raw) else b""
            if missing:
                tokens.update(*(beginning(missing + spelled[start:]) for start in starts))
            elif raw.startswith(opening):
                known = raw[len(opening) :]
                reached = [
                    start + len(known) for start in starts if spelled.startswith(known, start)
                ]
                tokens.update(*(beginning(spelled[place:]) for place in reached))
                if known and not ends.isdisjoint(reached):
                    tokens.add(vocabulary.eos)
        return tokens

    return allowed


def _bytes_of_borders(text: str) -> tuple[list[int], set[int]]:
    """Return the bytes of UTF-8 at which spans begin and end."""
    offsets = [0]
    for character in text:
        offsets.append(offsets[-1] + len(character.encode()))
    places = borders(text)
    starts = [offsets[place] for place in places if place < len(text) and not text[place].isspace()]
    return starts, {offsets[place] for place in places if place and not text[place - 1].isspace()}


@lru_cache(maxsize=8192)
def _in_word(character: str) -> bool:
    mark = unicodedata.category(character).startswith("M")
    return (character.isalnum() or mark) and not _UNSPACED.match(character)
