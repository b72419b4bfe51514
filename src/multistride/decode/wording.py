"""Rules about the text that tokens spell: what may not be written, and what ends a sentence.

A text can be cut into tokens in many ways, and a token can hold the end of one word and the
beginning of the next. So these rules look at the bytes of the text, not at tokens: a text is found
across tokens, across the borders of groups, and in the middle of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from multistride.data.vocab import Vocabulary
from multistride.decode.ending import StopRule

Barring = Callable[[Sequence[int]], Collection[int]]
"""The tokens written so far, to tokens that may not come next."""


def banned_texts(texts: Sequence[str], vocabulary: Vocabulary) -> Barring:
    """Bars every token with which one of `texts` would stand in the text; its beginning may be
    written.
    """
    spellings = vocabulary.spellings
    banned = [text.encode() for text in texts]
    always = {
        token for token, piece in enumerate(spellings) if any(text in piece for text in banned)
    }
    completing: dict[bytes, set[int]] = {}
    for text in banned:
        for place in range(1, len(text)):
            rest = text[place:]
            ends = {token for token, piece in enumerate(spellings) if piece.startswith(rest)}
            completing.setdefault(text[:place], set()).update(ends)
    longest = max(map(len, completing), default=0)
    first = {
        token
        for token, piece in enumerate(vocabulary.beginnings)
        if any(text in piece for text in banned)
    }

    def barred(written: Sequence[int]) -> set[int]:
        if vocabulary.begun(written) == len(written):
            return first
        spelled = vocabulary.spelled_end(written, longest)
        return always.union(
            *(tokens for begun, tokens in completing.items() if spelled.endswith(begun))
        )

    return barred


def stop_texts(texts: Sequence[str], vocabulary: Vocabulary) -> StopRule:
    """Ends a sentence with the first token that completes one of `texts`. The tokens before the new
    ones must not contain any of them.
    """
    stops = [text.encode() for text in texts]
    before = max(map(len, stops)) - 1

    def stopped(known: list[int], new: list[int]) -> int | None:
        written = list(known)
        for count, token in enumerate(new, start=1):
            written.append(token)
            length = before + len(vocabulary.spellings[token])
            if any(stop in vocabulary.spelled_end(written, length) for stop in stops):
                return count
        return None

    return stopped


def no_repeat(length: int) -> Barring:
    """Bars every token that would write `length` tokens in a row a second time.

    Source: Paulus, Xiong and Socher 2017, arXiv 1705.04304, section 2.5.
    """

    def barred(written: Sequence[int]) -> set[int]:
        begun = tuple(written[len(written) - length + 1 :])
        places = range(len(written) - length + 1)
        return {
            written[place + length - 1]
            for place in places
            if tuple(written[place : place + length - 1]) == begun
        }

    return barred
