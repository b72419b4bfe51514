"""Translating a document by windows of consecutive sentences, which then see each other; lines stay
aligned.

The lines of a window are joined, translated as one text, and that text is cut into as many lines
again. Where that cannot be done (the model wrote more or fewer sentences than it was given) the
lines of the window are translated one by one: a line never has the translation of another. Blank
lines stand between documents; no window reaches over them.

A line that the context does not hold (a whole paragraph, a page) is cut at its sentences into
windows as well, and their translations are joined again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from multistride.decode.constraints import Constraints
from multistride.decode.options import DecodeOptions
from multistride.errors import UsageError
from multistride.translator import Translation, Translator

_END = re.compile(r"(?<=[.!?…。！？])(?:[\"'”“’‘»«)\]]*)(?:\s+|$)")
"""Where a sentence ends: after its last mark and the quotes and brackets that close behind it."""


@dataclass
class Counts:
    """What became of the windows of more than one line: `apart` had to be translated line by
    line.
    """

    windows: int = 0
    apart: int = 0

    def told(self) -> str:
        """The same in words."""
        return (
            f"{self.windows:,} windows of several lines; {self.apart:,} of them came back with another number of "
            "sentences, and their lines were translated one by one"
        )


class WindowTranslator(Translator):
    """A translator that joins up to `sentences` consecutive lines with a `separator` before it
    translates them.

    With a blank separator a text is cut where sentences end, so a line that ends otherwise ends its
    window too. Any other one must have been in the training text: the model is to write it between
    the sentences.

    What is known of a window beside its text (tokens, scores, trace) is with its first line.
    `counts` says how many windows there were so far.
    """

    def __init__(self, translator: Translator, sentences: int, separator: str = " ") -> None:
        if sentences < 1:
            raise UsageError(f"windows of {sentences} sentences were asked for: choose 1 or more")
        super().__init__(translator.engine, translator.vocabulary, translator.directory)
        self.sentences, self.separator = sentences, separator
        self.counts = Counts()

    def checked(self, options: DecodeOptions, streaming: bool = False) -> Constraints:
        """The constraints of `options`. Raises `UsageError` for those of single sentences, and as
        the base does.
        """
        if streaming or options.prefix or options.stop:
            given = "--stream" if streaming else "a prefix" if options.prefix else "a stop text"
            raise UsageError(
                f"{given} was given, which is for single sentences, and windows of {self.sentences} were asked for: "
                "leave one of them out"
            )
        return super().checked(options, streaming)

    def written(
        self, texts: Sequence[str], options: DecodeOptions, constraints: Constraints
    ) -> list[Translation]:
        """What the model writes for lines, window by window; the n-th result belongs to the n-th
        line.
        """
        windows = list(self._windows(texts))
        pieces = [self._pieces(window) for window in windows]
        flat = [piece for each in pieces for piece in each]
        translated = iter(super().written(flat, options, constraints))
        whole = [_joined(list(islice(translated, len(each)))) for each in pieces]
        cuts = [self.cut(each.text, window) for each, window in zip(whole, windows, strict=True)]
        self.counts.windows += sum(len(window) > 1 for window in windows)
        self.counts.apart += sum(cut is None for cut in cuts)
        lines = [
            line
            for window, cut in zip(windows, cuts, strict=True)
            if cut is None
            for line in window
        ]
        alone = iter(super().written(lines, options, constraints))
        results: list[Translation] = []
        for each, window, cut in zip(whole, windows, cuts, strict=True):
            results += islice(alone, len(window)) if cut is None else _shared(each, cut)
        return results

    def _windows(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Consecutive lines that are translated together, as many as allowed and as the context
        holds.
        """
        window: list[str] = []
        for text in texts:
            if window and not (text.strip() and self._joins(window, text)):
                yield window
                window = []
            window.append(text)
            if not text.strip():  # a blank line stands alone
                yield window
                window = []
        if window:
            yield window

    def _joins(self, window: Sequence[str], text: str) -> bool:
        if len(window) >= self.sentences:
            return False
        if not self.separator.strip() and not ends_sentence(window[-1]):
            return False
        return self._fits(self.separator.join([*window, text]))

    def _fits(self, text: str) -> bool:
        [tokens] = self.encode([text])
        return self.problem(tokens) is None

    def _pieces(self, window: Sequence[str]) -> list[str]:
        """What is translated at once: the lines of a window joined, or the parts of one line that
        is too long.
        """
        joined = self.separator.join(window)
        if len(window) > 1 or self._fits(joined):
            return [joined]
        pieces: list[str] = []
        count = 0
        for sentence in _sentences(joined):
            if pieces and count < self.sentences and self._fits(f"{pieces[-1]} {sentence}"):
                pieces[-1], count = f"{pieces[-1]} {sentence}", count + 1
            else:
                pieces, count = [*pieces, sentence], 1
        return pieces

    def cut(self, text: str, window: Sequence[str]) -> list[str] | None:
        """A translation cut into one part for each line of the window; None where that is not
        possible.
        """
        if len(window) == 1:
            return [text]
        if self.separator.strip():
            parts = [part.strip() for part in text.split(self.separator.strip())]
            return parts if len(parts) == len(window) and all(parts) else None
        counts = [len(_sentences(line)) for line in window]
        sentences = _sentences(text)
        if len(sentences) != sum(counts):
            return None
        remaining = iter(sentences)
        return [" ".join(islice(remaining, count)) for count in counts]


def ends_sentence(line: str) -> bool:
    """Whether a line ends where a sentence does, so that what follows it can be found again."""
    return not _parts(line)[-1]


def _parts(text: str) -> list[str]:
    """A text cut behind every end of a sentence; what follows the last one comes last and may be
    empty.
    """
    places = [0, *(match.end() for match in _END.finditer(text)), len(text)]
    return [text[first:last].strip() for first, last in pairwise(places)]


def _sentences(text: str) -> list[str]:
    return [part for part in _parts(text) if part]


def _joined(parts: list[Translation]) -> Translation:
    """The parts of one line as one. A line of which a part has no translation has none."""
    if len(parts) == 1:
        return parts[0]
    for part in parts:
        if part.problem:
            return Translation("", problem=f"one of its sentences: {part.problem}")
    return Translation(
        " ".join(part.text for part in parts),
        tuple(token for part in parts for token in part.tokens),
        tuple(score for part in parts for score in part.scores),
        tuple(group for part in parts for group in part.trace),
        parts[-1].ending,
    )


def _shared(whole: Translation, cut: list[str]) -> Iterator[Translation]:
    """The lines of a window that was translated as one."""
    if len(cut) == 1:
        yield whole
        return
    yield Translation(cut[0], whole.tokens, whole.scores, whole.trace, whole.ending)
    for part in cut[1:]:
        yield Translation(part, ending=whole.ending)
