"""Tasks: records in, examples for the tokenizer, answers out, figures over all of them.

A record is one JSON object. A task makes an `Example` of it (texts, ready for the tokenizer), turns
the model's output for that into an `Answer`, and measures many answers against their records. What
runs the model in between is a `Solve`. One bad record never stops the others: it becomes a `Solved`
that says what is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from multistride.decode.options import DecodeOptions
from multistride.engines.names import EngineName
from multistride.errors import DataError, UsageError
from multistride.untrusted import parse_json

Record: TypeAlias = Mapping[str, Any]

JSON_KINDS = {
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}
"""What JSON calls the values that are no objects."""

Output = TypeVar("Output")
"""What a model gives for one example: a text, or the log-probabilities of classes."""

Read = TypeVar("Read", contravariant=True)
"""The same, where it is only read."""


class RecordError(DataError):
    """A record that has no answer: its line (from 1), what was found there, what is allowed."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line, self.problem = line, problem


class FileError(RecordError):
    """A line of a file in which there is no record; `problem` names both."""

    def __init__(self, file: str, line: int, problem: str) -> None:
        super().__init__(line, problem)
        self.file, self.args = file, (problem,)


@dataclass(frozen=True)
class Example:
    """One record as texts: what the model reads and, where it is known, what it is to write."""

    line: int
    source: str
    target: str | None = None


@dataclass(frozen=True)
class Answer:
    """An answer, and what else is known of it (probabilities, evidence), as JSON has it."""

    text: str
    facts: Record = field(default_factory=dict)


class Task(Protocol[Read]):
    """One task. Stateless but for what it was made with, such as a list of classes."""

    name: str

    def example(self, record: Record, line: int) -> Example:
        """Return the texts of a record. Raises `RecordError` naming the line and the field."""

    def answer(self, output: Read, record: Record) -> Answer:
        """Return the answer that the model's output for this record means."""

    def metrics(self, answers: Sequence[Answer], records: Sequence[Record]) -> dict[str, float]:
        """Return figures over all answers; the n-th record belongs to the n-th answer."""


Solve: TypeAlias = Callable[[Sequence[Example], DecodeOptions], Sequence[Output | RecordError]]
"""Runs the model in one way of decoding; the n-th output, or why there is none, belongs to the n-th
example."""

Details: TypeAlias = Callable[[Sequence[Answer], Sequence[Record]], dict[str, Any]]


@dataclass(frozen=True)
class Opened(Generic[Output]):
    """A task with a model behind it, opened once for all ways of decoding.

    `settle` checks a way before anything runs and returns what is decoded with; `details` are what
    a result file has beside the figures; `teacher` is the same task with another model behind it.
    `refuse` raises `DataError` for a record that lacks what answers are measured against, before
    anything is decoded to be measured.
    """

    task: Task[Output]
    solve: Solve[Output]
    settle: Callable[[DecodeOptions], DecodeOptions]
    engine: str = "eager"
    details: Details = lambda answers, records: {}
    teacher: Opened[Output] | None = None
    refuse: Callable[[Iterable[Record]], None] = lambda records: None


class Opening(BaseModel):
    """The models a task is opened with, and their engine and device. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path = Field(description="model directory")
    engine: EngineName = Field("auto", description="inference engine")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    teacher: Path | None = Field(
        None, description="autoregressive model to compare with, and its perplexity"
    )
    sentences: bool = Field(False, description="translate every sentence of a text alone")


Open: TypeAlias = Callable[[Opening], Opened[Any]]
"""Opens a task: raises as loading a model does."""


def refuse_options(way: DecodeOptions, taken: Sequence[str], who: str) -> None:
    """Raise `UsageError` for an option of decoding that was given and that a task has no use
    for.
    """
    for name in sorted(way.model_fields_set - set(taken)):
        raise UsageError(
            f"--{name.replace('_', '-')} {getattr(way, name)} was given, and {who}: leave it out"
        )


@dataclass(frozen=True)
class Solved:
    """The outcome of one line: an answer or a problem, and the record if it is one at all."""

    line: int
    record: Record | None = None
    answer: Answer | None = None
    problem: RecordError | None = None


def read_records(
    lines: Iterable[bytes], every_line: bool = False
) -> Iterator[tuple[int, Record | RecordError]]:
    """Yield one JSON object a line, with its line number from 1; what is no object is a
    `RecordError`.

    Blank lines are skipped; with `every_line`, where there is a result for each, they are errors.
    """
    for line, raw in enumerate(lines, start=1):
        if raw.strip():
            yield line, _record(line, raw)
        elif every_line:
            yield line, RecordError(line, "it is blank: write one JSON object in every line")


def text_field(record: Record, name: str, line: int) -> str:
    """Return a field that must hold text. Raises `RecordError` if it is missing or blank."""
    value = record.get(name)
    if isinstance(value, str) and value.strip():
        return value
    if name not in record:
        raise RecordError(
            line, f"the field {name!r} is missing; it has {', '.join(record) or 'none'}: name it so"
        )
    shown = "blank" if isinstance(value, str) else json.dumps(value, ensure_ascii=False)[:40]
    raise RecordError(line, f"the field {name!r} is {shown}; it must be a text")


def solved(
    opened: Opened[Any],
    records: Iterable[tuple[int, Record | RecordError]],
    way: DecodeOptions,
    together: int = 256,
) -> Iterator[Solved]:
    """Yield every record with its answer or its problem, in order.

    `together` records are handed to the model at once.
    """
    iterator = iter(records)
    while chunk := list(islice(iterator, together)):
        made = [(line, record, _example(opened.task, record, line)) for line, record in chunk]
        examples = [example for _, _, example in made if isinstance(example, Example)]
        outputs = iter(opened.solve(examples, way) if examples else ())
        for line, record, example in made:
            output = next(outputs) if isinstance(example, Example) else example
            known = None if isinstance(record, RecordError) else record
            if isinstance(output, RecordError):
                yield Solved(line, known, problem=output)
            else:
                assert known is not None
                yield Solved(line, known, opened.task.answer(output, known))


def _record(line: int, raw: bytes) -> Record | RecordError:
    try:
        record = parse_json(raw.decode("utf-8"))
        json.dumps(record, ensure_ascii=False).encode(
            "utf-8"
        )  # JSON can escape half of a surrogate pair
    except UnicodeError:
        return RecordError(line, "it is not valid UTF-8; a record is one JSON object in UTF-8")
    except ValueError:
        return RecordError(line, "it is not JSON; a record is one JSON object a line")
    if not isinstance(record, dict):
        kind = JSON_KINDS[type(record)]
        return RecordError(line, f"it is {kind}; a record is one JSON object a line")
    return record


def _example(task: Task[Any], record: Record | RecordError, line: int) -> Example | RecordError:
    if isinstance(record, RecordError):
        return record
    try:
        return task.example(record, line)
    except RecordError as error:
        return error
