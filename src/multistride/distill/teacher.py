"""The teacher: lines in, as many lines out, by whichever engine can run it.

Source: Kim and Rush 2016, arXiv 1606.07947, section 3.2: the best hypothesis of a beam search
stands for the teacher's distribution over sequences.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from multistride.baselines.ctranslate2 import CTranslate2Engine, installed_version
from multistride.data.corpus import INVALID_UTF8
from multistride.data.detokenize import one_line
from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.device import pick_device
from multistride.distill.config import DistillConfig
from multistride.distill.tally import Tally
from multistride.errors import MissingExtraError, UsageError
from multistride.text_model import TextModel
from multistride.translator import Translator

logger = logging.getLogger(__name__)

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
        sources = self.translator.vocabulary.encode_source(texts)
        for place, tokens in enumerate(sources):
            if self.translator.problem(tokens):
                faults[place] = TOO_LONG
        return sources, faults


def open_teacher(
    config: DistillConfig,
    device: str,
    threads: int,
) -> Teacher:
    """Load the teacher into the engine that `config` asks for; `auto` says which one it took.

    Raises `DataError` for a bad model directory, `MissingExtraError` or `UsageError` if the engine
    that was asked for cannot be had.
    """
    place = pick_device("cpu" if config.engine == "ctranslate2" else device)
    translator = Translator.load(config.model, str(place), "eager")
    if config.engine == "eager":
        return _eager_teacher(config, translator)
    try:
        if config.engine == "auto" and place.type != "cpu":
            raise UsageError("ctranslate2 is used on the CPU only")
        teacher = _fast_teacher(config, translator, threads)
    except (MissingExtraError, UsageError) as error:
        if config.engine == "ctranslate2":
            raise
        logger.info(f"engine: eager, because: {error}")
        return _eager_teacher(config, translator)
    logger.info(
        f"engine: {teacher.library}, {teacher.compute_type}, beam {config.beam}, threads {threads}"
    )
    return teacher


def _fast_teacher(config: DistillConfig, translator: Translator, threads: int) -> Teacher:
    engine = CTranslate2Engine(translator.engine.model, workers=threads)
    options, beam = DecodeOptions.made(batch_size=config.batch_size), config.beam
    assert beam is not None

    def decode(sources: list[list[int]], progress: Callable[[int], None]) -> list[Decoded]:
        results = engine.decode(sources, options, beam, config.length_penalty, progress)
        return [Decoded(result.tokens, result.ended) for result in results]

    return Teacher(
        translator, decode, "ctranslate2", engine.compute_type, f"ctranslate2 {installed_version()}"
    )


def _eager_teacher(config: DistillConfig, translator: Translator) -> Teacher:
    assert config.beam is not None
    ranking = {"length_penalty": config.length_penalty} if config.beam > 1 else {}
    options = DecodeOptions.made(batch_size=config.batch_size, beam=config.beam, **ranking).checked(
        translator.config
    )

    def decode(sources: list[list[int]], progress: Callable[[int], None]) -> list[Decoded]:
        hypotheses = decode_corpus(translator.engine, sources, options, progress)
        return [Decoded(hypothesis.tokens, hypothesis.ending == "end") for hypothesis in hypotheses]

    return Teacher(translator, decode, "eager", "float32", f"torch {torch.__version__}")
