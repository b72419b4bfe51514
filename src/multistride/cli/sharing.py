"""What a worker does for `translate`, `generate` and `evaluate`: open the model, decode what comes.

Everything here is pickled and sent to the workers, who import it there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.decode.state import Hypothesis
from multistride.device import set_threads
from multistride.engines.open import EngineName
from multistride.errors import DataError
from multistride.generator import Generator as CausalModel
from multistride.generator import load
from multistride.model.weights import weights_digest
from multistride.parts import Chunk
from multistride.shipped import directory
from multistride.text_model import TextModel, Translation


class Decoded(NamedTuple):
    """The translations of a chunk, in order, and the seconds they took."""

    translations: list[Translation]
    seconds: float


Decode = Callable[[Iterable[Chunk]], Generator[tuple[Chunk, Decoded], None, None]]
"""Yields every chunk with its translations, in order."""


@dataclass(frozen=True)
class Recipe:
    """A model, and how to open it on another machine. The directory must be there under this path.

    `digest` is that of the weights as the verb sees them: a worker with others refuses to begin.
    """

    model: Path
    digest: str
    engine: EngineName
    device: str
    threads: int

    @classmethod
    def of(cls, model: Path | None, engine: EngineName, device: str, threads: int | None) -> Recipe:
        """Return the recipe of a model directory (None: the model that ships)."""
        path = directory(model)
        return cls(path.absolute(), weights_digest(path), engine, device, threads or 1)

    def opened(self) -> TextModel:
        """Return the model. Raises `DataError` if it is not the one that was meant."""
        set_threads(self.threads)
        model = load(self.model, self.device, self.engine)
        if weights_digest(self.model) != self.digest:
            raise DataError(
                f"{self.model} holds other weights on a worker's machine: copy the model there"
            )
        return model


@dataclass(frozen=True)
class LinesWork:
    """Opens a model and decodes chunks of lines with it."""

    recipe: Recipe
    options: DecodeOptions
    chat: bool = False
    system: str | None = None

    def __call__(self) -> Callable[[Chunk], Decoded]:
        """Return the function that decodes a chunk."""
        model = self.recipe.opened()
        if self.chat:
            assert isinstance(model, CausalModel)
            model = model.chatting(self.system)
        return lines_work(model, self.options)


def lines_work(model: TextModel, options: DecodeOptions) -> Callable[[Chunk], Decoded]:
    """Return the function that decodes a chunk with a model that is open."""
    plan = model.planned(options)

    def work(chunk: Chunk) -> Decoded:
        began = time.perf_counter()
        translations = list(model.translate_lines(chunk.lines, plan))
        return Decoded(translations, time.perf_counter() - began)

    return work


@dataclass(frozen=True)
class TokensWork:
    """Opens a model and decodes token sequences with it, each lot with its own options."""

    recipe: Recipe

    def __call__(self) -> Callable[[tuple[DecodeOptions, Sequence[list[int]]]], list[Hypothesis]]:
        """Return the function that decodes a lot."""
        model = self.recipe.opened()

        def work(lot: tuple[DecodeOptions, Sequence[list[int]]]) -> list[Hypothesis]:
            options, rows = lot
            return decode_corpus(model.engine, rows, model.planned(options))

        return work
