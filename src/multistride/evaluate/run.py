"""`multistride evaluate`: one model, one test set, several group sizes, one result object."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from multistride.data.corpus import Pair, Unreadable, read_parallel
from multistride.decode.options import DecodeOptions, Mode
from multistride.decode.state import Hypothesis
from multistride.device import cpu_name
from multistride.errors import DataError
from multistride.evaluate.positions import measure_places
from multistride.evaluate.quality import identical_share, measure_quality, repetition_rate
from multistride.evaluate.speed import Latency, Throughput, measure_latency, measure_throughput
from multistride.files import sha256
from multistride.model.weights import WEIGHTS
from multistride.report.results import EvaluationResult, Example, ExampleOutput, Measurement, PlaceMeasurement
from multistride.translator import Translator
from multistride.version import __version__


class EvaluationRequest(BaseModel):
    """What to measure. Frozen; unknown keys are errors.

    `latency_sentences` are timed alone (batch 1), spread evenly over the test set; `examples` are shown in full.
    `tokenize` is sacreBLEU's tokenizer; `phonemes` counts blank-separated symbols as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    source: Path
    reference: Path
    group_sizes: tuple[int, ...]
    name: str
    mode: Mode = "fast"
    threshold: float | None = None
    beam: int = Field(1, ge=1)
    kind: Literal["translation", "phonemes"] = "translation"
    tokenize: str = "13a"
    batch_size: int = 32
    latency_sentences: int = 100
    examples: int = 3
    limit: int | None = None


@dataclass(frozen=True)
class TestSet:
    """Sources and references, line by line, with the tokens of the sources that can be decoded (else None)."""

    sources: list[str]
    references: list[str]
    tokens: list[list[int] | None]

    @property
    def places(self) -> list[int]:
        """The lines that are decoded."""
        return [place for place, tokens in enumerate(self.tokens) if tokens is not None]

    def decodable(self) -> list[list[int]]:
        """The source tokens of those lines."""
        return [tokens for tokens in self.tokens if tokens is not None]


def evaluate(
    request: EvaluationRequest, translator: Translator, report: Callable[[str], None] = lambda line: None
) -> EvaluationResult:
    """Decode the test set at every group size and measure quality, steps and speed.

    Raises `DataError` for files that cannot be read or do not align, `UsageError` for a group size the checkpoint
    was not trained for, or a beam wider than its vocabulary.
    """
    choices = _choices(request, translator)
    test_set = _read(request, translator, report)
    sources = test_set.decodable()
    runs: list[Throughput] = []
    for choice in choices:
        report(f"decoding {len(sources)} sentences at K={choice.group_size}")
        runs.append(measure_throughput(translator.engine, sources, choice))
    report(f"timing {min(request.latency_sentences, len(sources))} sentences at batch 1")
    chosen = _spread(len(sources), request.latency_sentences)
    latencies = measure_latency(translator.engine, [sources[place] for place in chosen], choices)
    baseline = _baseline(translator, sources, choices, runs)
    rows = [
        _measurement(request, translator, test_set, *each, baseline)
        for each in zip(request.group_sizes, runs, latencies, strict=True)
    ]
    return EvaluationResult(
        name=request.name,
        kind=request.kind,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=_settings(request, translator, test_set, choices, len(chosen)),
        results=tuple(rows),
        examples=tuple(_examples(request, translator, test_set, runs)),
        places=tuple(_by_place(request, translator, test_set)),
    )


def _choices(request: EvaluationRequest, translator: Translator) -> list[DecodeOptions]:
    """One way of decoding for each group size that was asked for."""
    shared = DecodeOptions.made(
        mode=request.mode, threshold=request.threshold, beam=request.beam, batch_size=request.batch_size
    )
    choices = [shared.model_copy(update={"group_size": size}) for size in request.group_sizes]
    return [choice.checked(translator.config) for choice in choices]


def _read(request: EvaluationRequest, translator: Translator, report: Callable[[str], None]) -> TestSet:
    sources, references = [], []
    for line, record in enumerate(read_parallel(request.source, request.reference), start=1):
        if isinstance(record, Unreadable):
            raise DataError(f"{request.source} and {request.reference}: line {line}: {record.reason}: repair it")
        assert isinstance(record, Pair)
        sources.append(record.source)
        references.append(record.target)
        if len(sources) == request.limit:
            break
    tokens: list[list[int] | None] = []
    for line, (text, ids) in enumerate(zip(sources, translator.vocabulary.encode(sources), strict=True), start=1):
        problem = translator.problem(ids)
        if problem:
            report(f"line {line}: {problem}; it counts as an empty translation")
        tokens.append(ids if text.strip() and not problem else None)
    if all(ids is None for ids in tokens):
        raise DataError(f"{request.source} holds no line that can be translated: give a file with text")
    return TestSet(sources, references, tokens)


def _baseline(
    translator: Translator, sources: list[list[int]], choices: list[DecodeOptions], runs: list[Throughput]
) -> list[list[int]]:
    """The tokens of greedy K=1, which every row is compared with."""
    for choice, run in zip(choices, runs, strict=True):
        if choice.group_size == 1 and choice.beam == 1:
            return [hypothesis.tokens for hypothesis in run.hypotheses]
    alone = DecodeOptions.made(batch_size=choices[0].batch_size)
    return [hypothesis.tokens for hypothesis in measure_throughput(translator.engine, sources, alone).hypotheses]


def _measurement(
    request: EvaluationRequest,
    translator: Translator,
    test_set: TestSet,
    group_size: int,
    run: Throughput,
    latency: Latency,
    baseline: list[list[int]],
) -> Measurement:
    tokens = [hypothesis.tokens for hypothesis in run.hypotheses]
    texts = [""] * len(test_set.sources)
    for place, text in zip(test_set.places, translator.vocabulary.decode_all(tokens), strict=True):
        texts[place] = text
    quality = measure_quality(texts, test_set.references, request.tokenize)
    steps = sum(hypothesis.steps for hypothesis in run.hypotheses)
    written = sum(len(hypothesis.log_probabilities) for hypothesis in run.hypotheses)
    return Measurement(
        group_size=group_size,
        mode=request.mode,
        beam=request.beam,
        engine="eager",
        bleu=quality.bleu,
        bleu_signature=quality.bleu_signature,
        chrf=quality.chrf,
        chrf_signature=quality.chrf_signature,
        exact_match=quality.exact_match,
        token_error_rate=quality.token_error_rate,
        steps_per_sentence=steps / len(tokens),
        tokens_per_step=written / steps,
        ms_per_sentence_p50=latency.p50,
        ms_per_sentence_p95=latency.p95,
        tokens_per_second=run.tokens_per_second,
        repetition_rate=repetition_rate(tokens),
        length_ratio=quality.length_ratio,
        identical_to_k1=identical_share(tokens, baseline),
    )


def _settings(
    request: EvaluationRequest,
    translator: Translator,
    test_set: TestSet,
    choices: list[DecodeOptions],
    latency_sentences: int,
) -> dict[str, Any]:
    model = translator.engine.model
    return {
        "model": str(request.model),
        "model_sha256": sha256(request.model / WEIGHTS),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_group_sizes": list(model.config.group_sizes),
        "source": str(request.source),
        "source_sha256": sha256(request.source),
        "reference": str(request.reference),
        "reference_sha256": sha256(request.reference),
        "sentences": len(test_set.sources),
        "not_translated": len(test_set.sources) - len(test_set.places),
        "decoding": _decoding(choices[0]),
        "batch_size": request.batch_size,
        "latency_sentences": latency_sentences,
        "latency_batch_size": 1,
        "threads": torch.get_num_threads(),
        "device": str(translator.engine.device),
        "cpu": cpu_name(),
        "precision": "float32",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "multistride": __version__,
    }


def _decoding(choice: DecodeOptions) -> str:
    """How the outputs were searched for. A beam search may make more network calls than its best output has steps."""
    if choice.mode == "exact":
        return "greedy, drafts checked against K=1 of the same weights"
    if choice.mode == "adaptive":
        return f"greedy, tokens kept while together at least {choice.sure_from} probable"
    if choice.beam == 1:
        return "greedy"
    return f"beam search, length penalty {choice.length_penalty}; steps are those of the chosen output"


def _examples(
    request: EvaluationRequest, translator: Translator, test_set: TestSet, runs: Sequence[Throughput]
) -> list[Example]:
    """Test lines, spread evenly over the set, with what every group size wrote step by step."""
    chosen = _spread(len(test_set.places), request.examples)
    return [
        Example(
            source=test_set.sources[test_set.places[place]],
            reference=test_set.references[test_set.places[place]],
            outputs=tuple(
                _output(translator, size, run.hypotheses[place])
                for size, run in zip(request.group_sizes, runs, strict=True)
            ),
        )
        for place in chosen
    ]


def _by_place(request: EvaluationRequest, translator: Translator, test_set: TestSet) -> list[PlaceMeasurement]:
    """What each place of a group is worth, on the pairs whose references fit the model."""
    references = translator.vocabulary.encode_targets([test_set.references[place] for place in test_set.places])
    fitting = [
        (source, reference)
        for source, reference in zip(test_set.decodable(), references, strict=True)
        if not translator.problem(reference)
    ]
    return measure_places(translator.engine.model, fitting, request.group_sizes) if fitting else []


def _output(translator: Translator, group_size: int, hypothesis: Hypothesis) -> ExampleOutput:
    vocabulary = translator.vocabulary
    groups = tuple(tuple(vocabulary.pieces(group.tokens)) for group in hypothesis.groups)
    return ExampleOutput(group_size=group_size, text=vocabulary.decode(hypothesis.tokens), groups=groups)


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` places, evenly spread over 0 ... count - 1."""
    wanted = min(count, wanted)
    return [(2 * index + 1) * count // (2 * wanted) for index in range(wanted)]
