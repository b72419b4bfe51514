"""A rule that copies: a sentence may only be a span of a given text, of whole words, and then it ends.

It looks at the bytes of the text, as the rules in `wording` do: a model may cut a span into other tokens than the text
around it was cut into. One blank may stand before the span, since most tokens that begin a word bring theirs.

A *border* is a place between two characters that are not both inside one word; a span goes from a border to a border
and has no blank at its ends. Characters of scripts that are written without blanks are words of their own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence

from multistride.data.vocab import Vocabulary

Allowing = Callable[[Sequence[int]], Collection[int]]
"""The tokens written so far, to the tokens (perhaps EOS) that alone may come next; none: nothing goes on."""

_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def spans(vocabulary: Vocabulary) -> Callable[[str], Allowing]:
    """From a text to the rule that writes its spans. Raises `UsageError` for tokens that do not spell text."""
    by_spelling: dict[bytes, list[int]] = {}
    for token, piece in enumerate(vocabulary.spellings):
        if piece:
            by_spelling.setdefault(piece, []).append(token)
    longest = max(map(len, by_spelling), default=0)
    return lambda text: _rule(text.strip(), vocabulary, by_spelling, longest)


def borders(text: str) -> list[int]:
    """The places, in characters, where a span may begin or end, the ends of the text included."""
    inside = (_in_word(before) and _in_word(after) for before, after in zip(text, text[1:], strict=False))
    return [0, *(place for place, within in enumerate(inside, start=1) if not within), len(text)] if text else []


def _rule(text: str, vocabulary: Vocabulary, by_spelling: dict[bytes, list[int]], longest: int) -> Allowing:
    spelled = text.encode()
    starts, ends = _bytes_of_borders(text)

    def tokens_at(place: int, before: bytes) -> set[int]:
        """Tokens that spell `before` and then what stands at a place of the text."""
        room = range(0 if before else 1, min(longest, len(spelled) - place) + 1)
        return {token for count in room for token in by_spelling.get(before + spelled[place : place + count], ())}

    def allowed(written: Sequence[int]) -> set[int]:
        raw = b"".join(vocabulary.spellings[token] for token in written)
        known = raw.removeprefix(b" ")
        reached = [start + len(known) for start in starts if spelled.startswith(known, start)]
        tokens = set().union(*(tokens_at(place, b"") for place in reached))
        if not raw:
            tokens.update(*(tokens_at(start, b" ") for start in starts))
        if known and any(place in ends for place in reached):
            tokens.add(vocabulary.eos)
        return tokens

    return allowed


def _bytes_of_borders(text: str) -> tuple[list[int], set[int]]:
    """Where spans begin and where they end, in bytes of UTF-8."""
    offsets = [0]
    for character in text:
        offsets.append(offsets[-1] + len(character.encode()))
    places = borders(text)
    starts = [offsets[place] for place in places if place < len(text) and not text[place].isspace()]
    return starts, {offsets[place] for place in places if place and not text[place - 1].isspace()}


def _in_word(character: str) -> bool:
    mark = unicodedata.category(character).startswith("M")
    return (character.isalnum() or mark) and not _UNSPACED.match(character)
