"""`multistride evaluate`: one model, one test set, several group sizes, one result object."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from multistride.decode.options import DecodeOptions, Layout, Mode, PolicyName
from multistride.decode.state import Hypothesis
from multistride.device import cpu_name
from multistride.evaluate.positions import measure_places
from multistride.evaluate.sentences import TestSet, read_test_set, spread
from multistride.evaluate.speed import Latency, Throughput, measure_latency, measure_throughput
from multistride.files import sha256
from multistride.metrics.quality import (
    identical_share,
    measure_quality,
)
from multistride.metrics.repetition import repetition_by_border, repetition_rate
from multistride.model.weights import load_provenance, weights_digest
from multistride.report.results import (
    EvaluationResult,
    Example,
    ExampleOutput,
    Measurement,
    PlaceMeasurement,
)
from multistride.translator import Translator
from multistride.version import __version__


class EvaluationRequest(BaseModel):
    """What to measure. Frozen; unknown keys are errors.

    `latency_sentences` are timed alone (batch 1), spread evenly over the test set; `examples` are
    shown in full. `tokenize` is sacreBLEU's tokenizer; `phonemes` counts blank-separated symbols as
    they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    source: Path
    reference: Path
    group_sizes: tuple[int, ...]
    name: str
    mode: Mode = "fast"
    threshold: float | None = None
    policy: PolicyName | None = None
    layout: Layout | None = None
    beam: int = Field(1, ge=1)
    kind: Literal["translation", "phonemes"] = "translation"
    tokenize: str = "13a"
    batch_size: int = 32
    latency_sentences: int = 100
    examples: int = 3
    limit: int | None = None


def evaluate(
    request: EvaluationRequest,
    translator: Translator,
    report: Callable[[str], None] = lambda line: None,
) -> EvaluationResult:
    """Decode the test set at every group size and measure quality, steps and speed.

    Raises `DataError` for files that cannot be read or do not align, `UsageError` for a group size
    the checkpoint was not trained for, or a beam wider than its vocabulary.
    """
    choices = _choices(request, translator)
    assert translator.engine.model.config == translator.config, (
        "refused here, not after decoding, for an export"
    )
    test_set = read_test_set(translator, request.source, request.reference, request.limit, report)
    sources = test_set.decodable()
    runs: list[Throughput] = []
    for choice in choices:
        report(f"decoding {len(sources)} sentences at K={choice.group_size}")
        runs.append(
            measure_throughput(translator.engine, sources, choice, translator.measured_for(choice))
        )
    report(f"timing {min(request.latency_sentences, len(sources))} sentences at batch 1")
    chosen = spread(len(sources), request.latency_sentences)
    timed = [sources[place] for place in chosen]
    latencies = measure_latency(
        translator.engine, timed, choices, translator.measured_for(choices[0])
    )
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
    ways = request.model_dump(
        include={"mode", "threshold", "policy", "layout", "beam", "batch_size"}
    )
    return [translator.settled(size, **ways) for size in request.group_sizes]


def _baseline(
    translator: Translator,
    sources: list[list[int]],
    choices: list[DecodeOptions],
    runs: list[Throughput],
) -> list[list[int]]:
    """The tokens of greedy K=1, which every row is compared with."""
    for choice, run in zip(choices, runs, strict=True):
        if choice.group_size == 1 and choice.beam == 1:
            return [hypothesis.tokens for hypothesis in run.hypotheses]
    alone = DecodeOptions.made(batch_size=choices[0].batch_size)
    return [
        hypothesis.tokens
        for hypothesis in measure_throughput(translator.engine, sources, alone).hypotheses
    ]


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
    borders, inside = repetition_by_border(
        [[group.tokens for group in each.groups] for each in run.hypotheses]
    )
    return Measurement(
        group_size=group_size,
        mode=request.mode,
        beam=request.beam,
        engine=translator.engine.name,
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
        repetition_at_borders=borders,
        repetition_inside=inside,
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
        "model_sha256": weights_digest(request.model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_group_sizes": list(model.config.group_sizes),
        "provenance": load_provenance(request.model),
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
        "precision": translator.engine.precision,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "multistride": __version__,
    }


def _decoding(choice: DecodeOptions) -> str:
    """How the outputs were searched for. A beam search may make more network calls than its best
    output has steps.
    """
    if choice.mode == "exact":
        return "greedy, drafts checked against K=1 of the same weights"
    if choice.mode == "adaptive":
        how = f", policy {choice.policy}" if choice.policy else ""
        return f"greedy, tokens kept while together at least {choice.sure_from} probable{how}"
    if choice.policy == "phase":
        return f"greedy, groups twice as large after one at least {choice.sure_from} probable, else half"
    if choice.beam == 1:
        return "greedy"
    return (
        f"beam search, length penalty {choice.length_penalty}; steps are those of the chosen output"
    )


def _examples(
    request: EvaluationRequest,
    translator: Translator,
    test_set: TestSet,
    runs: Sequence[Throughput],
) -> list[Example]:
    """Test lines, spread evenly over the set, with what every group size wrote step by step."""
    chosen = spread(len(test_set.places), request.examples)
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


def _by_place(
    request: EvaluationRequest, translator: Translator, test_set: TestSet
) -> list[PlaceMeasurement]:
    """What each place of a group is worth, on the pairs whose references fit the model."""
    references = translator.vocabulary.encode_targets(
        [test_set.references[place] for place in test_set.places]
    )
    fitting = [
        (source, reference)
        for source, reference in zip(test_set.decodable(), references, strict=True)
        if not translator.problem(reference)
    ]
    return measure_places(translator.engine.model, fitting, request.group_sizes) if fitting else []


def _output(translator: Translator, group_size: int, hypothesis: Hypothesis) -> ExampleOutput:
    vocabulary = translator.vocabulary
    groups = tuple(tuple(vocabulary.pieces(group.tokens)) for group in hypothesis.groups)
    return ExampleOutput(
        group_size=group_size, text=vocabulary.decode(hypothesis.tokens), groups=groups
    )
