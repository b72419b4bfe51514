"""Measuring a task over records: answers, classes, texts, translations."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from multistride.cpu import cpu_name
from multistride.data.corpus import read_lines
from multistride.decode.options import DecodeOptions
from multistride.errors import DataError
from multistride.evaluate.measure import Run
from multistride.evaluate.request import Files
from multistride.evaluate.ways import Way, settled
from multistride.files import sha256
from multistride.model.directory import load_provenance, weights_digest
from multistride.report.result import Example as Shown
from multistride.report.result import Kind, Place
from multistride.tasks.record import (
    Answer,
    Example,
    Opened,
    Opening,
    Record,
    RecordError,
    read_records,
)
from multistride.version import __version__

logger = logging.getLogger(__name__)

TOGETHER = 256
"""Records that are handed to the model at once."""

Outcome = Answer | RecordError


class Records:
    """A task over a file of records, one JSON object a line.

    The model is opened once, and so is the teacher. A record without an answer is logged with its
    line number and counted in `failed`. Raises `DataError` if no record can be read or one lacks
    what answers are measured against, `UsageError` for options that the task does not take, and
    what opening the task raises.
    """

    kind: Kind = "task"
    unit = "record"

    def __init__(
        self,
        name: str,
        opening: Opening,
        opened: Opened[Any],
        ways: Sequence[DecodeOptions],
        files: Files,
    ) -> None:
        self.task: str | None = name
        self._opening, self._opened, self._files = opening, opened, files
        chosen = settled(ways)
        self.ways = [Way(opened.settle(way)) for way in chosen]
        self._teacher = opened.teacher
        if self._teacher is not None:
            shared = chosen[0].model_dump(
                include={"beam", "batch_size", "max_tokens"}, exclude_unset=True
            )
            way = Way(self._teacher.settle(DecodeOptions.made(**shared)), teacher=True)
            self.ways.insert(0, way)
        self.inputs: list[Example] = []
        self._records: dict[int, Record] = {}
        self._problems: list[RecordError] = []
        for line, record in islice(read_records(read_lines(files.source)), files.limit):
            self._take(line, record)
        if not self.inputs:
            first = f"; {self._problems[0]}" if self._problems else ""
            raise DataError(f"{files.source}: no record can be read{first}: check the file")
        for line, record in self._records.items():
            try:
                opened.refuse([record])
            except DataError as error:
                raise DataError(f"{files.source}: line {line}: {error}") from error

    def _take(self, line: int, record: Record | RecordError) -> None:
        try:
            if isinstance(record, RecordError):
                raise record
            self.inputs.append(self._opened.task.example(record, line))
            self._records[line] = record
        except RecordError as problem:
            logger.warning(str(problem))
            self._problems.append(problem)

    def write(self, way: Way, inputs: Sequence[Example]) -> list[Outcome]:
        """Answer examples; the n-th answer, or why there is none, belongs to the n-th."""
        opened = self._teacher if way.teacher and self._teacher else self._opened
        outcomes: list[Outcome] = []
        for first in range(0, len(inputs), TOGETHER):
            chunk = inputs[first : first + TOGETHER]
            for example, output in zip(chunk, opened.solve(chunk, way.options), strict=True):
                record = self._records[example.line]
                failed = isinstance(output, RecordError)
                outcomes.append(output if failed else opened.task.answer(output, record))
        return outcomes

    def greedy(self) -> Way | None:
        """Return None: answers are compared with K=1 only where it was asked for."""
        return None

    def figures(self, run: Run[Outcome], greedy: Run[Outcome] | None) -> dict[str, Any]:
        """Return the task's figures, speed, and the share of answers that are those of K=1."""
        opened = self._teacher if run.way.teacher and self._teacher else self._opened
        answers, records = self._good(run)
        if not answers:
            problem = next(each for each in run.outputs if isinstance(each, RecordError))
            raise DataError(f"{self._files.source}: no record has an answer; {problem}")
        same = None
        if greedy is not None and not run.way.teacher:
            pairs = zip(run.outputs, greedy.outputs, strict=True)
            alike = [
                one.text == other.text
                for one, other in pairs
                if isinstance(one, Answer) and isinstance(other, Answer)
            ]
            same = sum(alike) / len(alike) if alike else None
        return {
            "engine": opened.engine,
            "metrics": opened.task.metrics(answers, records),
            "seconds": round(run.seconds, 3),
            "records_per_second": round(len(answers) / run.seconds, 3),
            "same_as_k1": same,
            "details": opened.details(answers, records),
        }

    def _good(self, run: Run[Outcome]) -> tuple[list[Answer], list[Record]]:
        pairs = [
            (outcome, self._records[example.line])
            for example, outcome in zip(self.inputs, run.outputs, strict=True)
            if isinstance(outcome, Answer)
        ]
        return [answer for answer, _ in pairs], [record for _, record in pairs]

    def conditions(self, runs: Sequence[Run[Outcome]], timed: int) -> dict[str, Any]:
        """Return the models, the file, how many records have no answer, and the machine.

        A record counts as failed if any of the ways has no answer to it; it is named once.
        """
        unanswered: dict[int, RecordError] = {}
        for run in runs:
            for example, each in zip(self.inputs, run.outputs, strict=True):
                if isinstance(each, RecordError):
                    unanswered.setdefault(example.line, each)
        for _, problem in sorted(unanswered.items()):
            logger.warning(str(problem))
        ways = [way.options for way in self.ways if not way.teacher]
        teacher = self._opening.teacher
        return {
            "multistride": __version__,
            **_named(self._opening.model),
            "teacher": None if teacher is None else _named(teacher),
            "source": str(self._files.source),
            "source_sha256": sha256(self._files.source),
            "records": len(self.inputs) - len(unanswered),
            "failed": len(self._problems) + len(unanswered),
            "machine": {
                "cpu": cpu_name(),
                "threads": torch.get_num_threads(),
                "system": platform.platform(),
            },
            "batch_size": ways[0].batch_size,
            "latency_records": timed,
            "drafts": next((way.drafts for way in ways if way.drafts is not None), None),
            "writing": {
                **({"split_sentences": True} if self._opening.sentences else {}),
                "threshold": next(
                    (way.threshold for way in ways if way.threshold is not None), None
                ),
                "policy": next((way.policy for way in ways if way.policy is not None), None),
                "max_tokens": ways[0].max_tokens,
                "teacher": None if teacher is None else str(teacher),
            },
        }

    def examples(self, runs: Sequence[Run[Outcome]]) -> list[Shown]:
        """Return nothing: tasks keep examples in the details of a row."""
        return []

    def places(self) -> list[Place]:
        """Return nothing: a task is not measured place by place."""
        return []


def _named(model: Path) -> dict[str, Any]:
    return {
        "model": str(model),
        "model_sha256": weights_digest(model),
        "provenance": load_provenance(model),
    }
