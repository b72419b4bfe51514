"""The result of `multistride evaluate --task`, and its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.table import Table

from multistride.errors import DataError


class TaskMeasurement(BaseModel):
    """One way of decoding, by the model itself or by the autoregressive one it is compared with.

    seconds            for all records that have an answer, in batches, reading and scoring included
    ms_per_record_p50  median and 95th percentile of records answered alone; all ways in turns
    same_as_k1         answers that are those of the same model at K=1, 0–1; None without them
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["own", "teacher"] = "own"
    group_size: int
    mode: str
    engine: str
    metrics: dict[str, float]
    seconds: float
    records_per_second: float
    ms_per_record_p50: float | None = None
    ms_per_record_p95: float | None = None
    same_as_k1: float | None = None
    details: dict[str, Any] = {}


class TaskResult(BaseModel):
    """One task, one model, one file of records. `failed` records were reported and count in no figure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    multistride: str
    created: str
    task: str
    name: str
    model: str
    model_sha256: str
    provenance: dict[str, Any]
    teacher: dict[str, Any] | None = None
    settings: dict[str, Any] = {}
    source: str
    source_sha256: str
    records: int
    failed: int
    machine: dict[str, Any]
    results: list[TaskMeasurement]


def task_table(result: TaskResult) -> Table:
    """A row for every way of decoding, a column for every figure."""
    table = Table(title=f"{result.name}: {result.task}, {result.records} records")
    names = list(result.results[0].metrics)
    for heading in ("K", "mode", *names, "records/s"):
        table.add_column(heading, justify="left" if heading == "mode" else "right")
    for row in result.results:
        figures = (f"{row.metrics[name]:.4g}" for name in names)
        table.add_row(str(row.group_size), row.mode, *figures, f"{row.records_per_second:.4g}")
    return table


def read_task(path: Path) -> TaskResult | None:
    """The result in a file; None if it is of another kind. Raises `DataError` for a damaged result of a task."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or "task" not in found or "results" not in found:
        return None
    try:
        return TaskResult.model_validate(found)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise DataError(f"{path} is not the result of a task: {place}: {problem['msg']}; evaluate again") from error
