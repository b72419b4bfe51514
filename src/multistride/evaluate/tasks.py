"""`multistride evaluate --task`: one task, one model, one file of records, several group sizes, one result object."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field

from multistride.data.corpus import read_lines
from multistride.decode.options import Mode
from multistride.device import cpu_name
from multistride.errors import DataError
from multistride.files import sha256
from multistride.model.weights import WEIGHTS, load_provenance
from multistride.report.tasks import TaskMeasurement, TaskResult
from multistride.tasks.names import task_named
from multistride.tasks.task import Answer, Record, RecordError, TaskRequest, read_records, solved
from multistride.version import __version__


class TaskEvaluation(BaseModel):
    """What to measure. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field(description="a name of `tasks.names.TASKS`")
    model: Path
    source: Path = Field(description="records, one JSON object a line")
    name: str
    group_sizes: tuple[int, ...] = Field((1,), min_length=1)
    mode: Mode = "fast"
    engine: str = "eager"
    device: str = "auto"
    batch_size: int = Field(32, ge=1)
    limit: int | None = Field(None, ge=1)


def evaluate_task(request: TaskEvaluation, report: Callable[[str], None] = lambda line: None) -> TaskResult:
    """Answer every record at every group size and measure the answers.

    A record without an answer is reported with its line number and counted in `failed`. Raises `DataError` if none
    has one, and what opening the task raises.
    """
    records = list(read_records(read_lines(request.source)))[: request.limit]
    rows: list[TaskMeasurement] = []
    failed = 0
    for group_size in request.group_sizes:
        row, problems = _measured(request, group_size, records)
        if not rows:
            failed = len(problems)
            for problem in problems:
                report(str(problem))
        rows.append(row)
    return TaskResult(
        multistride=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=request.task,
        name=request.name,
        model=str(request.model),
        model_sha256=sha256(request.model / WEIGHTS) if (request.model / WEIGHTS).is_file() else "",
        provenance=load_provenance(request.model),
        source=str(request.source),
        source_sha256=sha256(request.source),
        records=len(records) - failed,
        failed=failed,
        machine={"cpu": cpu_name(), "threads": torch.get_num_threads(), "system": platform.platform()},
        results=rows,
    )


def _measured(
    request: TaskEvaluation, group_size: int, records: list[tuple[int, Record | RecordError]]
) -> tuple[TaskMeasurement, list[RecordError]]:
    """The figures at one group size, and the records that have no answer."""
    shared = request.model_dump(include={"model", "mode", "engine", "device", "batch_size"})
    opened = task_named(request.task)(TaskRequest(group_size=group_size, **shared))
    began = time.perf_counter()
    answers: list[Answer] = []
    known: list[Record] = []
    problems: list[RecordError] = []
    for each in solved(opened, records):
        if each.answer is None or each.record is None:
            assert each.problem is not None
            problems.append(each.problem)
        else:
            answers.append(each.answer)
            known.append(each.record)
    seconds = time.perf_counter() - began
    if not answers:
        first = f"; {problems[0]}" if problems else ""
        raise DataError(f"{request.source}: no record has an answer{first}: check the file")
    row = TaskMeasurement(
        group_size=group_size,
        mode=request.mode,
        engine=request.engine,
        metrics=opened.task.metrics(answers, known),
        seconds=round(seconds, 3),
        records_per_second=round(len(answers) / seconds, 3),
        details=opened.details(answers, known),
    )
    return row, problems
