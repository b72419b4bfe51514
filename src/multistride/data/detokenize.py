"""From tokens to text while the tokens are still coming."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from multistride.data.vocab import Vocabulary

REPLACEMENT = "\ufffd"
"""What bytes that are not UTF-8 become, among them a character whose last bytes have not come
yet."""


WINDOW, CONTEXT = 48, 8
"""Tokens that are decoded anew for every part, and how many of them are kept as context."""


def one_line(text: str) -> str:
    """Return the text without any character that some reader takes for the end of a line."""
    return " ".join(text.splitlines())


def as_it_is(text: str) -> str:
    """Return the text, line ends included."""
    return text


class TextStream:
    """The text of a growing sequence of tokens, handed out in parts that are never taken back.

    The parts joined are `shape(until(vocabulary.decode(all tokens), stops))`. A character that is
    spread over several tokens, and so perhaps over several groups, comes whole; what may be the
    beginning of a stop text waits.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        stops: Collection[str] = (),
        shape: Callable[[str], str] = one_line,
    ) -> None:
        self._vocabulary, self._stops, self._shape = vocabulary, stops, shape
        self._tokens: list[int] = []
        self._given = 0
        # Text that is certain, and the last of its tokens with their text: they are the context in
        # which later tokens are decoded, so that a long text is not decoded again for every part.
        self._before, self._context = "", ""

    def add(self, tokens: Sequence[int]) -> str:
        """Return the text that is certain now and was not before; may be empty."""
        self._tokens += tokens
        text = until(self._decoded(), self._stops).rstrip(REPLACEMENT)
        beginnings = {stop[:length] for stop in self._stops for length in range(1, len(stop))}
        waiting = max((len(begun) for begun in beginnings if text.endswith(begun)), default=0)
        return self._new(text[: len(text) - waiting])

    def end(self) -> str:
        """Return what was held back because it could still have changed."""
        return self._new(until(self._decoded(), self._stops))

    def _decoded(self) -> str:
        """Return the text of all tokens."""
        window = self._vocabulary.decode(self._tokens)
        text = self._before + window.removeprefix(self._context)
        if len(self._tokens) > WINDOW and not window.endswith(REPLACEMENT):
            last = self._tokens[-CONTEXT:]
            if context := self._vocabulary.decode(last):
                self._tokens, self._before, self._context = last, text, context
        return text

    def _new(self, text: str) -> str:
        line = self._shape(text)
        given, self._given = self._given, max(self._given, len(line))
        return line[given:]


def until(text: str, stops: Collection[str]) -> str:
    """Return the text before the first of the stop texts in it; all of it where there is none."""
    if not stops:
        return text
    return text[
        : min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))
    ]
