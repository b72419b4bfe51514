"""`multistride evaluate --task`: one task, one model, one file of records, several ways of
decoding, one result.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from operator import eq
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field

from multistride.data.corpus import read_lines
from multistride.decode.options import Drafts, Mode
from multistride.device import cpu_name
from multistride.errors import DataError, UsageError
from multistride.evaluate.sentences import spread
from multistride.evaluate.speed import Latency, in_turns
from multistride.files import sha256
from multistride.model.weights import WEIGHTS, load_provenance
from multistride.report.tasks import TaskMeasurement, TaskResult
from multistride.tasks.names import WRITING, task_named
from multistride.tasks.task import (
    Answer,
    Example,
    Opened,
    Record,
    RecordError,
    TaskRequest,
    Writing,
    read_records,
    solved,
)
from multistride.version import __version__


class TaskEvaluation(BaseModel):
    """What to measure. Frozen; unknown keys are errors. `latency_records` are answered alone,
    against the clock.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field(description="a name of `tasks.names.TASKS`")
    model: Path
    source: Path = Field(description="records, one JSON object a line")
    name: str
    group_sizes: tuple[int, ...] = Field((1,), min_length=1)
    modes: tuple[Mode, ...] = Field(("fast",), min_length=1)
    drafts: Drafts | None = None
    beam: int = Field(1, ge=1)
    engine: str = "eager"
    device: str = "auto"
    batch_size: int = Field(32, ge=1)
    limit: int | None = Field(None, ge=1)
    latency_records: int = Field(100, ge=1)
    writing: Writing = Writing()


class Way(NamedTuple):
    """One row: which model answers, and how it decodes."""

    teacher: bool
    group_size: int
    mode: Mode


@dataclass(frozen=True)
class _Run:
    """What one way answered, what had no answer, and how long all of it took."""

    opened: Opened[Any]
    answers: list[Answer]
    records: list[Record]
    examples: list[Example]
    problems: list[RecordError]
    seconds: float

    def alone(self, example: Example) -> object:
        """One example answered, for the clock."""
        return self.opened.solve([example])


def evaluate_task(
    request: TaskEvaluation, report: Callable[[str], None] = lambda line: None
) -> TaskResult:
    """Answer every record in every way asked for and measure the answers, then the time of single
    ones, in turns.

    A record without an answer is reported with its line number and counted in `failed`. Raises
    `DataError` if none has one, `UsageError` for `writing` options that the task does not take, and
    what opening the task raises.
    """
    _check_writing(request)
    records = list(read_records(read_lines(request.source)))[: request.limit]
    ways = _ways(request)
    opened = [task_named(request.task)(_opening(request, way)) for way in ways]
    runs = []
    for way, each in zip(ways, opened, strict=True):
        report(
            f"{'teacher' if way.teacher else 'model'}, K={way.group_size}, mode {way.mode}: {len(records)} records"
        )
        runs.append(_answered(each, records, request.source))
    for problem in runs[0].problems:
        report(str(problem))
    latencies = _latencies(runs, request.latency_records)
    alone = next(
        (
            run
            for way, run in zip(ways, runs, strict=True)
            if not way.teacher and way.group_size == 1
        ),
        None,
    )
    return TaskResult(
        multistride=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=request.task,
        name=request.name,
        **_named(request.model),
        teacher=None if request.writing.teacher is None else _named(request.writing.teacher),
        settings=request.model_dump(
            mode="json", include={"batch_size", "latency_records", "drafts", "writing"}
        ),
        source=str(request.source),
        source_sha256=sha256(request.source),
        records=len(runs[0].answers),
        failed=len(runs[0].problems),
        machine={
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
            "system": platform.platform(),
        },
        results=[
            _measurement(request, way, run, latency, alone)
            for way, run, latency in zip(ways, runs, latencies, strict=True)
        ],
    )


def _check_writing(request: TaskEvaluation) -> None:
    """Raise `UsageError` for options that no row would follow."""
    writing = request.writing
    if request.task not in WRITING and writing != Writing():
        given = ", ".join(writing.model_fields_set)
        raise UsageError(
            f"{given} was given, and task {request.task} writes no texts that way: leave it out"
        )
    if request.drafts is not None and (
        "exact" not in request.modes or max(request.group_sizes) == 1
    ):
        raise UsageError(
            f"drafts {request.drafts} was given, which is for mode exact and K above 1: add them, or leave it out"
        )
    if writing.policy is not None and max(request.group_sizes) == 1:
        raise UsageError(
            f"policy {writing.policy} was given, and only K=1 is measured: add a group size above 1"
        )
    if (
        writing.threshold is not None
        and "adaptive" not in request.modes
        and writing.policy != "phase"
    ):
        raise UsageError(
            f"threshold {writing.threshold} was given, which is for mode adaptive: add it, or leave it out"
        )


def _ways(request: TaskEvaluation) -> list[Way]:
    """The teacher at K=1 if there is one, then every group size in every mode; K=1 is the same in
    all, and once.
    """
    asked = [
        Way(False, size, mode)
        for mode, size in product(request.modes, request.group_sizes)
        if size > 1
    ]
    first = [Way(True, 1, "fast")] if request.writing.teacher is not None else []
    mode: Mode = "fast" if "fast" in request.modes else request.modes[0]  # a task may refuse it
    alone = [Way(False, 1, mode)] if 1 in request.group_sizes else []
    return [*first, *alone, *asked]


def _opening(request: TaskEvaluation, way: Way) -> TaskRequest:
    """How the task is opened for a row."""
    shared = request.model_dump(include={"beam", "engine", "device", "batch_size"})
    model = request.writing.teacher if way.teacher else request.model
    assert model is not None
    drafts = request.drafts if way.mode == "exact" and way.group_size > 1 else None
    own = {
        "group_size": way.group_size,
        "mode": way.mode,
        "drafts": drafts,
        "writing": request.writing,
    }
    return TaskRequest(model=model, **own, **shared)


def _named(model: Path) -> dict[str, Any]:
    """A model, its weights and where they come from."""
    weights = model / WEIGHTS
    digest = sha256(weights) if weights.is_file() else ""
    return {"model": str(model), "model_sha256": digest, "provenance": load_provenance(model)}


def _answered(
    opened: Opened[Any], records: list[tuple[int, Record | RecordError]], source: Path
) -> _Run:
    """All records answered. Raises `DataError` if none has an answer."""
    began = time.perf_counter()
    results = list(solved(opened, records))
    seconds = time.perf_counter() - began
    problems = [each.problem for each in results if each.problem is not None]
    good = [
        (each.line, each.record, each.answer)
        for each in results
        if each.record is not None and each.answer
    ]
    if not good:
        first = f"; {problems[0]}" if problems else ""
        raise DataError(f"{source}: no record has an answer{first}: check the file")
    examples = [opened.task.example(record, line) for line, record, _ in good]
    return _Run(
        opened,
        [answer for *_, answer in good],
        [record for _, record, _ in good],
        examples,
        problems,
        seconds,
    )


def _latencies(runs: list[_Run], count: int) -> list[Latency]:
    """Milliseconds for one record alone, in every way, in turns."""
    chosen = spread(min(len(run.examples) for run in runs), count)
    examples = [runs[0].examples[place] for place in chosen]
    return in_turns([run.alone for run in runs], examples)


def _measurement(
    request: TaskEvaluation, way: Way, run: _Run, latency: Latency, alone: _Run | None
) -> TaskMeasurement:
    own = alone is not None and not way.teacher and len(alone.answers) == len(run.answers)
    texts, others = ([answer.text for answer in each.answers] for each in (run, alone or run))
    return TaskMeasurement(
        model="teacher" if way.teacher else "own",
        group_size=way.group_size,
        mode=way.mode,
        beam=request.beam,
        engine=request.engine,
        metrics=run.opened.task.metrics(run.answers, run.records),
        seconds=round(run.seconds, 3),
        records_per_second=round(len(run.answers) / run.seconds, 3),
        ms_per_record_p50=round(latency.p50, 3),
        ms_per_record_p95=round(latency.p95, 3),
        same_as_k1=sum(map(eq, texts, others)) / len(texts) if own else None,
        details=run.opened.details(run.answers, run.records),
    )
