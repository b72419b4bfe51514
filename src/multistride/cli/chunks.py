"""Chunks of lines, decoded here or by the workers of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple

from multistride.decode.options import DecodeOptions
from multistride.parts import Chunk
from multistride.text_model import TextModel
from multistride.translation import Translation


class Decoded(NamedTuple):
    """The translations of a chunk, in order, and the seconds they took."""

    translations: list[Translation]
    seconds: float


Decode = Callable[[Iterable[Chunk]], Generator[tuple[Chunk, Decoded], None, None]]
"""Yields every chunk with its translations, in order."""


def lines_work(model: TextModel, options: DecodeOptions) -> Callable[[Chunk], Decoded]:
    """Return the function that decodes a chunk with a model that is open."""
    plan = model.planned(options)

    def work(chunk: Chunk) -> Decoded:
        began = time.perf_counter()
        translations = list(model.translate_lines(chunk.lines, plan))
        return Decoded(translations, time.perf_counter() - began)

    return work
