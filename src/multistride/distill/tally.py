"""Statistics of a distilled corpus, counted while its parts are joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from multistride.data.vocab import Vocabulary
from multistride.parts import Part

Encode = Callable[[Sequence[str]], list[list[int]]]


class Tally:
    """Counts over the parts so far. Ratios and shares are over the lines that have a
    translation.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lines = self._translated = self._changed = self._unfinished = 0
        self._tokens: Counter[str] = Counter()
        self._empty: Counter[str] = Counter()
        self._seconds = 0.0

    def add(self, part: Part, sources: Sequence[bytes], targets: Sequence[bytes] | None) -> None:
        """Count one part, with its source lines and, if there are any, the real translations of
        those.
        """
        places = self._count_lines(part, sources)
        written, read = self._vocabulary.encode_target, self._vocabulary.encode_source
        self._count("output", [part.lines[place] for place in places], written)
        self._count("source", [sources[place] for place in places], read)
        if targets is not None:
            self._count("target", [targets[place] for place in places], written)
            self._changed += sum(part.lines[place] != targets[place].strip() for place in places)

    def _count_lines(self, part: Part, sources: Sequence[bytes]) -> list[int]:
        """Count the lines of a part; return the places of those that have a text."""
        assert len(part.lines) == len(sources)
        places = [place for place, line in enumerate(part.lines) if line]
        self._lines += len(part.lines)
        self._translated += len(places)
        self._unfinished += part.header.unfinished
        self._empty.update(part.header.empty)
        self._seconds += part.header.seconds
        return places

    def facts(self, compared: bool) -> dict[str, Any]:
        """The counts, seconds and ratios; `compared` says whether the real translations were
        there.
        """
        return {
            "lines": self._lines,
            "translated_lines": self._translated,
            "empty_lines": dict(sorted(self._empty.items())),
            "unfinished_lines": self._unfinished,
            "length_ratio_to_source": self._ratio("source"),
            "length_ratio_to_target": self._ratio("target") if compared else None,
            "changed_share": self._changed / self._translated
            if compared and self._translated
            else None,
            "seconds": round(self._seconds, 3),
            "sentences_per_second": round(self._lines / self._seconds, 2)
            if self._seconds
            else None,
        }

    def _ratio(self, side: str) -> float | None:
        """Tokens written per token of another side."""
        return self._tokens["output"] / self._tokens[side] if self._tokens[side] else None

    def _count(self, side: str, lines: list[bytes], encode: Encode) -> None:
        """Add the tokens of lines, in those of their own language."""
        texts = [line.decode("utf-8", errors="replace") for line in lines]
        self._tokens[side] += sum(map(len, encode(texts)))
