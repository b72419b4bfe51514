"""Translate a document by windows of consecutive lines, which then see each other.

The lines of a window are joined, translated as one text, and that text is cut into as many lines
again. A cut can be wrong: the model may run two sentences together and split a third, and a period
need not end a sentence. So every line is translated alone as well, and a window is used only if
each of its lines says what that line says alone (`same_lines`). Otherwise its lines are those
translated alone: a line never has the translation of another. Blank lines separate documents; no
window reaches over them.

A line that the context does not hold (a whole paragraph, a page) is cut at its sentences into
windows as well, and their translations are joined again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TypeAlias

from rapidfuzz.fuzz import ratio

from multistride.data.corpus import Unreadable
from multistride.data.sentences import ends_sentence, split_sentences
from multistride.decode.options import DecodeOptions
from multistride.decode.plan import Plan
from multistride.errors import UsageError
from multistride.translation import (
    Translation,
    decoded_line,
    joined_sentences,
    line_fault,
    listed,
    refuse_single,
    too_long,
)
from multistride.translator import Translator

Line: TypeAlias = str | Unreadable

_LENGTH_SLACK, _LENGTH_SHARE = 10, 0.5
"""A line of a window may be this many characters, or this share, longer or shorter than alone."""

_LEAST_ALIKE = 40.0
"""The least similarity (0 to 100) of a line of a window to the line translated alone."""

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[^\W\d_{_CJK}]{{4,}}|\d+")
_CJK_PAIR = re.compile(rf"(?=([{_CJK}]{{2}}))")


@dataclass
class Counts:
    """Windows of more than one line so far; those `apart` had to be translated line by line."""

    windows: int = 0
    apart: int = 0

    def __str__(self) -> str:
        return (
            f"{self.windows:,} windows of several lines; in {self.apart:,} of them the borders "
            "between lines were not certain, and each line was translated alone"
        )


class WindowTranslator(Translator):
    """A translator that joins up to `sentences` consecutive lines with a `separator`.

    With a blank separator a text is cut where sentences end, so a line that ends otherwise ends its
    window too. Any other one must have been in the training text: the model is to write it between
    the sentences.

    Tokens, scores and trace of a whole window are with its first line. `counts` says how many
    windows there were so far.
    """

    def __init__(self, translator: Translator, sentences: int, separator: str = " ") -> None:
        if sentences < 1:
            raise UsageError(f"windows of {sentences} sentences were asked for: choose 1 or more")
        super().__init__(translator.engine, translator.vocabulary, translator.directory)
        self.share(translator)
        self.sentences, self.separator = sentences, separator
        self.counts = Counts()

    def planned(
        self, options: DecodeOptions, *, streaming: bool = False, auto: bool = False
    ) -> Plan:
        """Return the plan of `options`.

        Raises `UsageError` for options of single sentences, and as the base does.
        """
        refuse_single(options, streaming, f"windows of {self.sentences}")
        return super().planned(options, streaming=streaming, auto=auto)

    def problem(self, tokens: Sequence[int]) -> str | None:
        """Return why a sentence of these tokens cannot be translated; None if it can."""
        return too_long(tokens, self.config, "split it")

    def translate_lines(
        self, lines: Iterable[bytes], plan: Plan, buffer: int = 1024
    ) -> Iterator[Translation]:
        """Translate lines of UTF-8 as they come: n lines in, n translations out, in order.

        At least `buffer` lines are read before the first is written, and always whole windows, so
        `buffer` does not decide what is written.
        """
        for windows in self.whole_windows(lines, buffer):
            written = iter(self._of_windows(_readable(windows), plan))
            for text in chain.from_iterable(windows):
                if isinstance(text, Unreadable):
                    yield Translation("", problem=text.reason)
                else:
                    yield next(written)

    def whole_windows(self, lines: Iterable[bytes], size: int) -> Iterator[list[list[Line]]]:
        """Yield the windows of `lines`, so many at once that they hold `size` lines or more.

        A line that has no text is `Unreadable`, in a window of its own.
        """
        windows: list[list[Line]] = []
        count = 0
        for window in self._windows(map(_decoded, lines)):
            windows.append(window)
            count += len(window)
            if count >= size:
                yield windows
                windows, count = [], 0
        if windows:
            yield windows

    def written(self, texts: Iterable[str], plan: Plan) -> list[Translation]:
        """Return the translations of lines, made window by window. Raises as the base does."""
        return self._of_windows(_readable(self._windows(listed(texts))), plan)

    def _of_windows(self, windows: Sequence[list[str]], plan: Plan) -> list[Translation]:
        pieces = [self._pieces(window) for window in windows]
        flat = [piece for each in pieces for piece in each]
        translated = iter(super().written(flat, plan))
        whole = [joined_sentences(list(islice(translated, len(each)))) for each in pieces]
        lines = [line for window in windows if len(window) > 1 for line in window]
        alone = iter(super().written(lines, plan))
        results: list[Translation] = []
        for result, window in zip(whole, windows, strict=True):
            if len(window) == 1:
                results.append(result)
                continue
            single = list(islice(alone, len(window)))
            cut = self.cut(result.text, window)
            certain = cut is not None and same_lines(cut, [line.text for line in single])
            self.counts.windows += 1
            self.counts.apart += not certain
            results += _shared(result, cut) if cut is not None and certain else single
        return results

    def _windows(self, texts: Iterable[Line]) -> Iterator[list[Line]]:
        """Yield consecutive lines that are translated together, as soon as a window is complete.

        A window has as many lines as allowed and as the context holds; a blank or unreadable line
        is one.
        """
        window: list[str] = []
        for text in texts:
            joinable = text if isinstance(text, str) and text.strip() else None
            if window and (joinable is None or not self._joins(window, joinable)):
                yield [*window]
                window = []
            if joinable is None:
                yield [text]
                continue
            window.append(joinable)
            if len(window) == self.sentences or not self._may_go_on(window[-1]):
                yield [*window]
                window = []
        if window:
            yield [*window]

    def _may_go_on(self, line: str) -> bool:
        return bool(self.separator.strip()) or ends_sentence(line)

    def _joins(self, window: Sequence[str], text: str) -> bool:
        return self._fits(self.separator.join([*window, text]))

    def _fits(self, text: str) -> bool:
        [tokens] = self.encode([text])
        return self.problem(tokens) is None

    def _pieces(self, window: Sequence[str]) -> list[str]:
        """Return what is translated at once: a window joined, or the parts of one long line."""
        joined = self.separator.join(window)
        if len(window) > 1 or not joined.strip() or self._fits(joined):
            return [joined]
        pieces: list[str] = []
        count = 0
        for sentence in split_sentences(joined):
            if pieces and count < self.sentences and self._fits(f"{pieces[-1]} {sentence}"):
                pieces[-1], count = f"{pieces[-1]} {sentence}", count + 1
            else:
                pieces, count = [*pieces, sentence], 1
        return pieces

    def cut(self, text: str, window: Sequence[str]) -> list[str] | None:
        """Return a translation cut into one part for each line of its window.

        None if it has not as many sentences as the window.
        """
        if len(window) == 1:
            return [text]
        if self.separator.strip():
            parts = [part.strip() for part in text.split(self.separator.strip())]
            return parts if len(parts) == len(window) and all(parts) else None
        counts = [len(split_sentences(line)) for line in window]
        sentences = split_sentences(text)
        if len(sentences) != sum(counts):
            return None
        remaining = iter(sentences)
        return [" ".join(islice(remaining, count)) for count in counts]


def same_lines(cut: Sequence[str], alone: Sequence[str]) -> bool:
    """Return whether each line cut from a window says what the same line says alone.

    It does if the two are alike and about equally long, and if the line has no word that only
    another line has alone.
    """
    words = [_marks(line) for line in alone]
    for index, (part, single) in enumerate(zip(cut, alone, strict=True)):
        if abs(len(part) - len(single)) > max(_LENGTH_SLACK, _LENGTH_SHARE * len(single)):
            return False
        if ratio(part, single) < max(_LEAST_ALIKE, *(ratio(part, line) for line in alone)):
            return False
        others = {word for other, of in enumerate(words) if other != index for word in of}
        if (_marks(part) - words[index]) & others:
            return False
    return True


def _marks(text: str) -> set[str]:
    """Return what tells a text from others: longer words, numbers, pairs of Chinese characters."""
    return {word.casefold() for word in _WORD.findall(text)} | set(_CJK_PAIR.findall(text))


def _readable(windows: Iterable[list[Line]]) -> list[list[str]]:
    """Return the windows without those that are not text."""
    texts = ([line for line in window if isinstance(line, str)] for window in windows)
    return [window for window in texts if window]


def _decoded(line: bytes) -> Line:
    text = decoded_line(line)
    return Unreadable(line_fault(line)) if text is None else text


def _shared(whole: Translation, cut: Sequence[str]) -> Iterator[Translation]:
    """Yield the lines of a window that was translated as one."""
    yield Translation(cut[0], whole.tokens, whole.scores, whole.trace, whole.ending)
    for part in cut[1:]:
        yield Translation(part, ending=whole.ending)
