"""The teacher: lines in, as many lines out, by whichever engine can run it.

Source: Kim and Rush 2016, arXiv 1606.07947, section 3.2: the best hypothesis of a beam search
stands for the teacher's distribution over sequences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from multistride.data.corpus import INVALID_UTF8
from multistride.data.detokenize import one_line
from multistride.distill.config import DistillConfig
from multistride.distill.tally import Tally
from multistride.text_model import TextModel

BLANK, TOO_LONG, EMPTY = "blank source", "too long", "empty translation"
"""Why a line is empty, beside `INVALID_UTF8`."""


class Decoded(NamedTuple):
    """A sentence's tokens without EOS, and whether EOS came before the length limit."""

    tokens: Sequence[int]
    ended: bool


Decode = Callable[[list[list[int]], Callable[[int], None]], list[Decoded]]
"""Tokens of sentences (no EOS) to tokens of translations; the second argument hears how many each
batch held."""


class Translations(NamedTuple):
    """One text a line. `empty` counts why lines are empty; `unfinished` counts those that the
    length limit ended.
    """

    texts: list[str]
    empty: dict[str, int]
    unfinished: int


class Teacher:
    """A model, an engine that decodes it, and the name, precision and library of that engine."""

    def __init__(
        self, translator: TextModel, decode: Decode, engine: str, compute_type: str, library: str
    ) -> None:
        self.translator = translator
        self.engine, self.compute_type, self.library = engine, compute_type, library
        self._decode = decode

    def choices(self, config: DistillConfig) -> dict[str, Any]:
        """Return the settings that further decide what is written."""
        return {}

    def tally(self) -> Tally:
        """Return the counter of the parts that this teacher wrote."""
        return Tally(self.translator.vocabulary)

    def translate(
        self, lines: list[bytes], progress: Callable[[int], None] = lambda count: None
    ) -> Translations:
        """Translate lines of UTF-8; the n-th text belongs to the n-th line, and is empty if there
        is none.

        `progress` is called now and then with a number of lines just done; the numbers add up to
        all lines.
        """
        sources, faults = self._sources(lines)
        places = [place for place, fault in enumerate(faults) if fault is None]
        progress(len(lines) - len(places))
        decoded = self._decode([sources[place] for place in places], progress)
        texts = [""] * len(lines)
        written = self.translator.vocabulary.decode_all([each.tokens for each in decoded])
        for place, text in zip(places, written, strict=True):
            texts[place] = one_line(text).strip()
            if not texts[place]:
                faults[place] = EMPTY
        empty = Counter(fault for fault in faults if fault is not None)
        return Translations(
            texts, dict(sorted(empty.items())), sum(not each.ended for each in decoded)
        )

    def _sources(self, lines: list[bytes]) -> tuple[list[list[int]], list[str | None]]:
        """The tokens of each line, and why it cannot be translated (None: it can)."""
        texts, faults = [], []
        for line in lines:
            try:
                texts.append(line.decode("utf-8"))
                faults.append(None if texts[-1].strip() else BLANK)
            except UnicodeDecodeError:
                texts.append("")
                faults.append(INVALID_UTF8)
        sources = self.translator.encode(texts)
        for place, tokens in enumerate(sources):
            if self.translator.problem(tokens):
                faults[place] = TOO_LONG
        return sources, faults
