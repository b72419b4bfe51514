"""`multistride bench`: our engines and others on the same sentences, in turns, on one machine.

Every contender is a process (`processes.py`) and decodes greedily until each sentence has
written EOS or reached its limit. The same batches of the same sentences go to all of them, a few
sentences a turn, beginning with another contender each time; whole rounds of that are repeated, and
medians are taken over the rounds.
"""

from __future__ import annotations

import logging
import platform
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from multistride.cpu import check_threads, cpu_name
from multistride.decode.options import DecodeOptions
from multistride.device import device_name, pick_device
from multistride.engines.interface import check_engine
from multistride.errors import UsageError
from multistride.evaluate.bench.bandwidth import read_bandwidth
from multistride.evaluate.bench.contenders import (
    LIBRARIES,
    OTHER_MODEL,
    Contenders,
    baselines,
    installed,
)
from multistride.evaluate.bench.gate import Requirement, check_measured
from multistride.evaluate.bench.processes import environment
from multistride.evaluate.bench.request import BenchOptions
from multistride.evaluate.bench.rounds import SENTENCES_A_TURN, Entry, time_entries
from multistride.evaluate.bench.rows import Conditions, rows_of
from multistride.evaluate.bench.workers.memory import METHOD
from multistride.evaluate.conditions import now
from multistride.evaluate.sentences import TestSet, read_test_set
from multistride.evaluate.speed import spread
from multistride.evaluate.ways import settled
from multistride.files import sha256
from multistride.metrics.quality import check_tokenizer
from multistride.model.config import TransformerConfig
from multistride.model.directory import weights_digest
from multistride.report.result import OWN, Result, Row, crossings
from multistride.translator import Translator
from multistride.version import __version__

logger = logging.getLogger(__name__)


class BenchRequest(BenchOptions):
    """A benchmark of `model` in some ways of decoding; `name` is the title of its result."""

    model: Path
    name: str
    ways: tuple[DecodeOptions, ...] = Field(min_length=1, description="ways of decoding")

    def requirements(self) -> list[Requirement]:
        """Return what `require` says. Raises `UsageError` for what is not measured."""
        found = [Requirement.parsed(text) for text in self.require]
        names = [*baselines(self.against), *([OTHER_MODEL] if self.against_model else [])]
        sizes = list(dict.fromkeys(way.group_size for way in self.ways))
        modes = list(dict.fromkeys(way.mode for way in self.ways))
        check_measured(found, names, sizes, self.batch_sizes, modes)
        return found


def bench(request: BenchRequest) -> Result:
    """Measure every engine, way of decoding and batch size, and every baseline, in turns.

    Raises `UsageError` for what cannot be measured, `MissingExtraError` for a baseline that is not
    installed, `DataError` for bad files or a bad model, and what a contender raises when it is
    opened; all of it before anything is measured.
    """
    _check(request)
    translator = Translator.load(request.model, "cpu", "eager")
    ways = [translator.planned(way).options for way in settled(request.ways, every_mode=True)]
    test_set = read_test_set(translator, request.source, request.reference, None)
    chosen = _chosen(request, test_set)
    machine, bandwidth = device_name(pick_device(request.device)), read_bandwidth(request.threads)
    logger.info(
        f"{machine}, {request.threads} thread(s): memory is read at {bandwidth / 1e9:.1f} GB/s"
    )
    references = [test_set.references[index] for index in chosen] if test_set.references else []
    conditions = Conditions(machine, request.threads, bandwidth, references, request.tokenize)
    rows: list[Row] = []
    others: list[Row] = []
    with ExitStack() as stack:
        texts = [test_set.sources[index] for index in chosen]
        contenders = Contenders(
            request.model, translator, texts, request.threads, request.device, stack
        )
        entries = _entries(request, contenders, ways, stack)
        for batch_size in request.batch_sizes:
            timings = time_entries(entries, contenders.lengths, batch_size, request.rounds)
            new, compared = rows_of(timings, batch_size, conditions)
            rows.extend(new)
            others.extend(compared)
    return Result(
        name=request.name,
        kind="benchmark",
        created=now(),
        conditions=_settings(request, translator, len(chosen), bandwidth),
        rows=tuple(rows),
        baselines=tuple(others),
        crossings=crossings(tuple(rows)),
    )


def _check(request: BenchRequest) -> None:
    """Check everything that can be checked before a model is read."""
    check_threads(request.threads)
    check_tokenizer(request.tokenize)
    for engine in request.engines:
        check_engine(engine)
    request.requirements()
    others = [name for name in baselines(request.against) if name in LIBRARIES]
    device = pick_device(request.device)
    if device.type != "cpu" and others:
        raise UsageError(
            f"device {device} was asked for, and the baseline {others[0]} runs on the CPU: "
            f"leave it out of --against, or choose device cpu"
        )


def _chosen(request: BenchRequest, test_set: TestSet) -> list[int]:
    """Return the lines that are timed. Raises `UsageError` where a batch would not be full."""
    places = [test_set.places[place] for place in spread(len(test_set.places), request.sentences)]
    largest = max(request.batch_sizes)
    if largest > len(places):
        raise UsageError(
            f"a batch of {largest} was asked for, and {len(places)} sentences are timed: "
            "give a source with more lines, more --sentences, or a smaller --batch-size"
        )
    return places


def _entries(
    request: BenchRequest,
    contenders: Contenders,
    ways: Sequence[DecodeOptions],
    stack: ExitStack,
) -> list[Entry]:
    """Open everyone who takes part."""
    against = baselines(request.against)
    entries: list[Entry] = []
    for engine in request.engines:
        logger.info(f"opening {engine}")
        entries += contenders.own(engine, ways, OWN in against)
        if request.against_model is not None:
            entries.append(contenders.other_model(request.against_model, engine))
    place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="multistride-")))
    return entries + contenders.libraries([name for name in against if name in LIBRARIES], place)


def _settings(
    request: BenchRequest, translator: Translator, sentences: int, bandwidth: float
) -> dict[str, Any]:
    model = translator.engine.model
    packages = [
        "torch",
        *(
            package
            for package in ("ctranslate2", "transformers", "onnxruntime")
            if installed(package)
        ),
    ]
    return {
        "model": str(request.model),
        "model_sha256": weights_digest(request.model),
        "shape": shape(translator.config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_group_sizes": list(translator.config.group_sizes),
        "against_model": str(request.against_model) if request.against_model else None,
        "source": str(request.source),
        "source_sha256": sha256(request.source),
        "reference": str(request.reference) if request.reference else None,
        "sentences": sentences,
        "rounds": request.rounds,
        "sentences_a_turn": SENTENCES_A_TURN,
        "decoding": "greedy, every contender; each sentence until EOS or its own limit; "
        "tokens in, tokens out",
        **_searched(request, translator),
        "device": request.device,
        "cpu": cpu_name(),
        "threads": request.threads,
        "omp_wait_policy": environment(request.threads).get("OMP_WAIT_POLICY", "default"),
        "read_bandwidth_gb_per_second": round(bandwidth / 1e9, 2),
        "memory_method": METHOD,
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
        "multistride": __version__,
    }


def _searched(request: BenchRequest, translator: Translator) -> dict[str, int]:
    """Return how many groups we keep where not one, as the model may ask."""
    beams = {translator.planned(way).group_beam for way in request.ways}
    return {"group_beam": max(beams)} if max(beams) > 1 else {}


def shape(config: TransformerConfig) -> str:
    """Return the sizes of a model in a few words."""
    return (
        f"{config.encoder_layers}+{config.decoder_layers} layers, width {config.hidden_size}, "
        f"feed-forward {config.feedforward_size}, vocabulary {config.vocabulary_size}"
    )
