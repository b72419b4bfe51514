"""`multistride evaluate`: everything settled, the model opened once, one result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from multistride.decode.options import DecodeOptions
from multistride.engines.names import EngineName
from multistride.evaluate.decoded import Pairs, Prompts, Shared
from multistride.evaluate.measure import measure
from multistride.evaluate.records import Records
from multistride.evaluate.request import EvaluationRequest
from multistride.evaluate.settle import settled_name
from multistride.evaluate.ways import settled
from multistride.generator import Generator
from multistride.metrics.quality import check_tokenizer
from multistride.report.result import Result
from multistride.shipped import DEFAULT
from multistride.tasks.record import Open, Opening
from multistride.tasks.sentences import SentenceTranslator
from multistride.translator import Translator

MOST_TOKENS = 64
"""Tokens that a causal model writes after a prompt, unless told otherwise."""


def evaluate(
    request: EvaluationRequest,
    ways: Sequence[DecodeOptions],
    model: Path | None = None,
    engine: EngineName = "auto",
    device: str = "auto",
    shared: Shared | None = None,
) -> Result:
    """Measure a model (None: the one that ships) on texts in every way of decoding.

    `shared` lets others decode the test set; latencies are measured here.
    `ways` are one `DecodeOptions` for every combination that was listed. Raises `UsageError` for
    options that do not go together or that the checkpoint was not trained for, `DataError` for bad
    files or a bad model; all of it before anything is decoded.
    """
    request.check()
    place = DEFAULT if model is None else model
    name = settled_name(request.name, place)
    if request.kind == "generation":
        generator = Generator.load(model, device, engine)
        limited = [_limited(way) for way in ways]
        prompts = Prompts(place, generator, limited, request.files, request.chat)
        prompts.share(shared)
        return measure(prompts, name, request.latency_sentences)
    check_tokenizer(request.tokenize)
    translator = Translator.load(place, device, engine)
    if request.sentences:
        translator = SentenceTranslator(translator)
    pairs = Pairs(place, translator, ways, request.files, request.kind, request.tokenize)
    pairs.share(shared)
    return measure(pairs, name, request.latency_sentences)


def evaluate_task(
    request: EvaluationRequest,
    ways: Sequence[DecodeOptions],
    open_task: Open,
    model: Path | None = None,
    engine: EngineName = "auto",
    device: str = "auto",
) -> Result:
    """Measure a model on the records of a task, which `open_task` opens (`tasks.names`).

    The rest is as in `evaluate`.
    """
    request.check()
    assert request.task is not None
    place = DEFAULT if model is None else model
    name = settled_name(request.name, place)
    chosen = settled(ways)
    models = {"model": place, "teacher": request.teacher}
    machine = {"engine": engine, "device": device}
    opening = Opening.model_validate({**models, **machine, "sentences": request.sentences})
    records = Records(request.task, opening, open_task(opening), chosen, request.files)
    return measure(records, name, request.latency_sentences)


def _limited(way: DecodeOptions) -> DecodeOptions:
    """Return a way with a limit: a causal model rarely stops by itself."""
    if way.max_tokens is not None:
        return way
    return DecodeOptions.made(**{**way.given(), "max_tokens": MOST_TOKENS})
