"""`multistride evaluate` for causal models: one model, some prompts, several group sizes and modes,
one result.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from multistride.data.corpus import Pair, Unreadable, read_lines, read_parallel
from multistride.decode.options import DecodeOptions, Drafts, Mode
from multistride.decode.score import score_continuations
from multistride.device import cpu_name
from multistride.errors import DataError
from multistride.evaluate.speed import Latency, Throughput, measure_latency, measure_throughput
from multistride.files import sha256
from multistride.generator import Generator
from multistride.metrics.quality import identical_share
from multistride.metrics.repetition import (
    distinct,
    repeated,
    repetition_by_distance,
    repetition_rate,
    self_bleu,
)
from multistride.model.weights import load_provenance, weights_digest
from multistride.report.generation import Continuation, GenerationMeasurement, GenerationResult
from multistride.version import __version__


class GenerationRequest(BaseModel):
    """What to measure. Frozen; unknown keys are errors. `latency_texts` prompts are timed alone
    (batch 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    source: Path = Field(description="prompts, one a line")
    reference: Path | None = Field(
        None, description="how they really go on, line by line, for the perplexity"
    )
    group_sizes: tuple[int, ...]
    modes: tuple[Mode, ...] = ("fast",)
    threshold: float | None = None
    drafts: Drafts | None = None
    name: str
    max_tokens: int = Field(64, ge=1)
    chat: bool = False
    batch_size: int = 32
    latency_texts: int = Field(50, ge=1)
    examples: int = 3
    limit: int | None = None


def evaluate_generation(
    request: GenerationRequest,
    generator: Generator,
    report: Callable[[str], None] = lambda line: None,
) -> GenerationResult:
    """Continue the prompts at every group size in every mode, and measure what is written, steps
    and speed.

    K=1 is the same in every mode and is measured once. Raises `DataError` for files that cannot be
    read or do not align and for prompts that cannot be continued, `UsageError` for what the
    checkpoint was not trained for.
    """
    choices = _choices(request, generator)
    writer = generator.chatting() if request.chat else generator
    prompts, references = _read(request)
    tokens = writer.encode(prompts)
    for line, ids in enumerate(tokens, start=1):
        if problem := generator.problem(ids):
            raise DataError(f"{request.source}: line {line}: {problem}")
    runs = []
    for choice in choices:
        report(f"writing {len(tokens)} texts at K={choice.group_size}, mode {choice.mode}")
        runs.append(
            measure_throughput(generator.engine, tokens, choice, generator.measured_for(choice))
        )
    chosen = tokens[: request.latency_texts]
    report(f"timing {len(chosen)} texts at batch 1")
    latencies = measure_latency(
        generator.engine, chosen, choices, generator.measured_for(choices[-1])
    )
    alone = choices[0].model_copy(
        update={"group_size": 1, "mode": "fast", "threshold": None, "drafts": None}
    )
    first = runs[0] if choices[0] == alone else measure_throughput(generator.engine, tokens, alone)
    baseline = [hypothesis.tokens for hypothesis in first.hypotheses]
    perplexities = _perplexities(request, generator, tokens, references, choices)
    return GenerationResult(
        name=request.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=_settings(request, generator, len(tokens), len(chosen)),
        results=tuple(
            _measurement(
                *each, baseline, perplexities[each[0].group_size], _texts(generator, each[1])
            )
            for each in zip(choices, runs, latencies, strict=True)
        ),
        examples=tuple(_examples(request, generator, prompts, runs)),
    )


def _choices(request: GenerationRequest, generator: Generator) -> list[DecodeOptions]:
    """One way of decoding for each group size and mode; K=1 once, first if it was asked for."""
    shared = {"max_length": request.max_tokens, "batch_size": request.batch_size}
    ways = [DecodeOptions.made(**shared)] if 1 in request.group_sizes else []
    for mode, size in product(request.modes, request.group_sizes):
        threshold = request.threshold if mode == "adaptive" else None
        if size > 1:
            drafts = request.drafts if mode == "exact" else None
            ways.append(
                DecodeOptions.made(
                    group_size=size, mode=mode, threshold=threshold, drafts=drafts, **shared
                )
            )
    return [way.checked(generator.config) for way in ways]


def _read(request: GenerationRequest) -> tuple[list[str], list[str] | None]:
    """The prompts and their references, at most `limit` of them."""
    if request.reference is None:
        lines = list(read_lines(request.source))[: request.limit]
        try:
            return [line.decode("utf-8") for line in lines], None
        except UnicodeDecodeError as error:
            raise DataError(f"{request.source} is not valid UTF-8: repair it") from error
    prompts, references = [], []
    for line, record in enumerate(read_parallel(request.source, request.reference), start=1):
        if isinstance(record, Unreadable):
            raise DataError(
                f"{request.source} and {request.reference}: line {line}: {record.reason}: repair it"
            )
        assert isinstance(record, Pair)
        prompts.append(record.source)
        references.append(record.target)
    return prompts[: request.limit], references[: request.limit]


def _perplexities(
    request: GenerationRequest,
    generator: Generator,
    prompts: list[list[int]],
    references: list[str] | None,
    choices: list[DecodeOptions],
) -> dict[int, float | None]:
    """Perplexity of the references by group size, of as many of their tokens as the context
    holds.
    """
    sizes = {choice.group_size for choice in choices}
    if references is None:
        return dict.fromkeys(sizes)
    texts = generator.vocabulary.encode(references)
    room = generator.config.max_positions
    pairs = [
        (prompt, text[: room - len(prompt)]) for prompt, text in zip(prompts, texts, strict=True)
    ]
    found: dict[int, float | None] = {}
    for size in sizes:
        if size > 1 and generator.config.adapter is not None:
            found[size] = None
            continue
        scores = [
            value
            for values in score_continuations(generator.engine.model, pairs, size)
            for value in values
        ]
        found[size] = math.exp(-sum(scores) / len(scores)) if scores else None
    return found


def _measurement(
    choice: DecodeOptions,
    run: Throughput,
    latency: Latency,
    baseline: list[list[int]],
    perplexity: float | None,
    texts: list[str],
) -> GenerationMeasurement:
    tokens = [hypothesis.tokens for hypothesis in run.hypotheses]
    steps = sum(hypothesis.steps for hypothesis in run.hypotheses)
    written = sum(len(hypothesis.log_probabilities) for hypothesis in run.hypotheses)
    return GenerationMeasurement(
        group_size=choice.group_size,
        mode=choice.mode if choice.group_size > 1 else "greedy",
        engine="eager",
        perplexity=perplexity,
        steps_per_text=steps / len(tokens),
        tokens_per_text=written / len(tokens),
        tokens_per_step=written / steps,
        ms_per_text_p50=latency.p50,
        ms_per_text_p95=latency.p95,
        tokens_per_second=run.tokens_per_second,
        repetition_rate=repetition_rate(tokens),
        repeated_4_grams=repeated(tokens, 4),
        distinct_1=distinct(tokens, 1),
        distinct_2=distinct(tokens, 2),
        distinct_3=distinct(tokens, 3),
        repetition_by_distance=repetition_by_distance(tokens),
        self_bleu=self_bleu(texts),
        identical_to_k1=identical_share(tokens, baseline),
    )


def _settings(
    request: GenerationRequest, generator: Generator, texts: int, timed: int
) -> dict[str, Any]:
    model = generator.engine.model
    asked = request.model_dump(
        mode="json", include={"threshold", "drafts", "max_tokens", "chat", "batch_size"}
    )
    files = {"source": request.source, "reference": request.reference}
    return {
        "model": str(request.model),
        "model_sha256": weights_digest(request.model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_group_sizes": list(model.config.group_sizes),
        "provenance": load_provenance(request.model),
        **{name: None if path is None else str(path) for name, path in files.items()},
        **{
            f"{name}_sha256": None if path is None else sha256(path) for name, path in files.items()
        },
        "prompts": texts,
        **asked,
        "latency_texts": timed,
        "latency_batch_size": 1,
        "threads": torch.get_num_threads(),
        "device": str(generator.engine.device),
        "cpu": cpu_name(),
        "precision": "float32",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "multistride": __version__,
    }


def _examples(
    request: GenerationRequest, generator: Generator, prompts: list[str], runs: list[Throughput]
) -> list[Continuation]:
    texts = [_texts(generator, run) for run in runs]
    places = range(min(request.examples, len(prompts)))
    return [
        Continuation(prompt=prompts[place], texts=tuple(each[place] for each in texts))
        for place in places
    ]


def _texts(generator: Generator, run: Throughput) -> list[str]:
    return generator.vocabulary.decode_all([hypothesis.tokens for hypothesis in run.hypotheses])
