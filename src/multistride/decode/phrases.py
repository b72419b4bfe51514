"""Tables of phrases: what most often followed a few tokens in text that a model wrote.

A model directory may hold one (`phrases.npy`, written by `distill.phrases`); exact mode drafts from
it (`decode.copying`). Source: He et al. 2023, arXiv 2311.08252. Shapes: M rows of a table, P a
phrase and one more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from multistride.array_files import read_array
from multistride.errors import DataError

PHRASES = "phrases.npy"
"""The file of a model directory that holds its table."""

LONGEST = 4
"""Tokens of the longest phrases that are looked up."""

SHORTEST = 2
"""Tokens of the shortest ones where masks draft too: a single token says less than they do."""

PADDING = -1
"""Stands before phrases shorter than the longest in a stored table."""


class PhraseTable:
    """Table from phrases to the token that most often followed them."""

    def __init__(self, rows: Int[np.ndarray, "M P"]) -> None:
        self._longest = rows.shape[1] - 1
        phrases = ([token for token in row[:-1] if token != PADDING] for row in rows.tolist())
        self._next = {
            tuple(phrase): row[-1] for phrase, row in zip(phrases, rows.tolist(), strict=True)
        }

    @classmethod
    def load(cls, directory: Path | str, vocabulary_size: int) -> PhraseTable | None:
        """The table in a model directory, None if it has none.

        Raises `DataError` if it is damaged, or of a model with other tokens.
        """
        path = Path(directory) / PHRASES
        if not path.is_file():
            return None
        rows = read_array(path, "delete it, or run `multistride phrases` again")
        if rows.dtype != np.int32 or rows.ndim != 2 or rows.shape[1] < 2:
            raise DataError(
                f"{path} is no table of phrases: delete it, or run `multistride phrases` again"
            )
        lowest, most = int(rows[:, -1].min(initial=0)), int(rows.max(initial=PADDING))
        if lowest < 0 or most >= vocabulary_size:
            raise DataError(
                f"{path} has token {lowest if lowest < 0 else most}, the model has 0 to "
                f"{vocabulary_size - 1}: delete it, or run `multistride phrases` again"
            )
        return cls(rows)

    def following(self, tokens: Sequence[int], most: int, shortest: int = 1) -> list[int]:
        """Up to `most` tokens, each the most frequent behind the longest known phrase before it."""
        context = list(tokens[-self._longest :])
        found: list[int] = []
        while len(found) < most:
            lengths = range(len(context), shortest - 1, -1)
            token = next(
                (
                    after
                    for length in lengths
                    if (after := self._next.get(tuple(context[-length:]))) is not None
                ),
                None,
            )
            if token is None:
                break
            found.append(token)
            context = [*context, token][-self._longest :]
        return found
