"""From tokens to text while the tokens are still coming."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from multistride.data.vocab import Vocabulary

REPLACEMENT = "\ufffd"
"""What bytes that are not UTF-8 become, among them a character whose last bytes have not come yet."""


def one_line(text: str) -> str:
    """The text without any character that some reader takes for the end of a line."""
    return " ".join(text.splitlines())


def as_it_is(text: str) -> str:
    """The text, line ends included."""
    return text


class TextStream:
    """The text of a growing sequence of tokens, handed out in parts that are never taken back.

    The parts joined are `shape(vocabulary.decode(all tokens))`. A character that is spread over several tokens,
    and so perhaps over several groups, comes whole.
    """

    def __init__(self, vocabulary: Vocabulary, shape: Callable[[str], str] = one_line) -> None:
        self._vocabulary, self._shape = vocabulary, shape
        self._tokens: list[int] = []
        self._given = 0

    def add(self, tokens: Sequence[int]) -> str:
        """The text that is certain now and was not before; may be empty."""
        self._tokens += tokens
        return self._new(self._vocabulary.decode(self._tokens).rstrip(REPLACEMENT))

    def end(self) -> str:
        """What was held back because it could still have changed."""
        return self._new(self._vocabulary.decode(self._tokens))

    def _new(self, text: str) -> str:
        line = self._shape(text)
        given, self._given = self._given, max(self._given, len(line))
        return line[given:]
