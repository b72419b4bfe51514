"""The result of `multistride evaluate --task`, and its table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.table import Table

from multistride.errors import DataError, UsageError
from multistride.report.classification import class_table, confusion_size, draw_confusion
from multistride.report.drawing import drawing, save
from multistride.untrusted import read_json


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
    beam: int = 1
    engine: str
    metrics: dict[str, float]
    seconds: float
    records_per_second: float
    ms_per_record_p50: float | None = None
    ms_per_record_p95: float | None = None
    same_as_k1: float | None = None
    details: dict[str, Any] = {}


class TaskResult(BaseModel):
    """One task, one model, one file of records. `failed` records were reported and count in no
    figure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["task"] = "task"
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
    """The result in a file; None if it is of another kind. Raises `DataError` for one that is
    damaged.
    """
    try:
        found = read_json(path)
    except DataError:
        return None
    if not isinstance(found, dict) or found.get("kind") != "task":
        return None
    try:
        return TaskResult.model_validate(found)
    except ValidationError as error:
        place = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
        raise DataError(
            f"{path} is a damaged result: {place} is wrong or missing: measure again"
        ) from error


def show_task(
    result: TaskResult, path: Path, figure: Path | None, report: Callable[[str], None]
) -> None:
    """Print the tables on stdout; draw the confusion matrix of the first row where asked (.svg or
    .png).

    Raises `UsageError` for a picture of a task that has none.
    """
    details = result.results[0].details
    console = Console()
    console.print(task_table(result))
    if "by_class" in details:
        console.print(class_table(details))
    if figure is None:
        return
    if "confusion" not in details:
        raise UsageError(f"{path} is about {result.task}, which has no picture: leave --figure out")
    with drawing(*confusion_size(details)) as canvas:
        draw_confusion(canvas, details)
        save(canvas, figure)
    report(f"written: {figure}")
