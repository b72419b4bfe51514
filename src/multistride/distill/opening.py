"""Opening the teacher of a translation model in the fastest engine that can run it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from multistride.baselines.ctranslate2 import CTranslate2Engine, installed_version
from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.device import pick_device
from multistride.distill.config import DistillConfig
from multistride.distill.teacher import Decoded, Teacher
from multistride.errors import MissingExtraError, UsageError
from multistride.translator import Translator

logger = logging.getLogger(__name__)


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
