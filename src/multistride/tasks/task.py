"""What a task is: records in, examples for the tokenizer, answers out, figures over all of them.

A record is one JSON object. A task makes an `Example` of it (texts, ready for the tokenizer), turns
what the model gave for that into an `Answer`, and measures many answers against their records. What
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

from multistride.decode.options import Drafts, Mode, PolicyName
from multistride.errors import DataError
from multistride.untrusted import parse_json

Record: TypeAlias = Mapping[str, Any]

Output = TypeVar("Output")
"""What a model gives for one example: a text, or the log-probabilities of classes."""

Read = TypeVar("Read", contravariant=True)
"""The same, where it is only read."""


class RecordError(DataError):
    """A record that has no answer: its line (from 1), what was found there, what is allowed."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line, self.problem = line, problem


@dataclass(frozen=True)
class Example:
    """One record as texts: what the model reads and, where it is known, what it is to write."""

    line: int
    source: str
    target: str | None = None


@dataclass(frozen=True)
class Answer:
    """What is answered, and what else is known of it (probabilities, evidence), as JSON has it."""

    text: str
    facts: Record = field(default_factory=dict)


class Task(Protocol[Read]):
    """One task. Stateless but for what it was made with, such as a list of classes."""

    name: str

    def example(self, record: Record, line: int) -> Example:
        """The texts of a record. Raises `RecordError` naming line, field, what was given and what
        is allowed.
        """

    def answer(self, output: Read, record: Record) -> Answer:
        """What the model's output for this record means."""

    def metrics(self, answers: Sequence[Answer], records: Sequence[Record]) -> dict[str, float]:
        """Figures over all answers; the n-th record, which holds what is right, belongs to the n-th
        answer.
        """


Solve: TypeAlias = Callable[[Sequence[Example]], Sequence[Output | RecordError]]
"""What runs the model: the n-th output, or why there is none, belongs to the n-th example."""

Details: TypeAlias = Callable[[Sequence[Answer], Sequence[Record]], dict[str, Any]]


@dataclass(frozen=True)
class Opened(Generic[Output]):
    """A task with a model behind it. `details` are what a result file has beside the figures, such
    as a matrix.
    """

    task: Task[Output]
    solve: Solve[Output]
    details: Details = lambda answers, records: {}


class Writing(BaseModel):
    """What only tasks that write texts take (`names.WRITING`). Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float | None = Field(
        None, ge=0, le=1, description="adaptive: how sure kept tokens are together"
    )
    policy: PolicyName | None = Field(
        None, description="how many tokens a step proposes: see decode.policy"
    )
    max_tokens: int | None = Field(
        None, ge=1, description="most tokens of a text; left out: as decoding has it"
    )
    teacher: Path | None = Field(
        None, description="autoregressive model to be compared with, and its perplexity"
    )


class TaskRequest(BaseModel):
    """How a task is opened: the model and how it decodes. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path = Field(description="model directory")
    group_size: int = Field(1, ge=1, description="tokens per step (K); 1 is autoregressive")
    mode: Mode = Field("fast", description="fast, adaptive or exact")
    drafts: Drafts | None = Field(
        None, description="exact: drafted by masks, text that stood there before, or both"
    )
    beam: int = Field(1, ge=1, description="hypotheses kept while searching; 1 is greedy")
    engine: str = Field("eager", description="what computes")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    batch_size: int = Field(32, ge=1, description="examples the model reads together")
    writing: Writing = Writing()


Open: TypeAlias = Callable[[TaskRequest], Opened[Any]]
"""How a task is opened by its name: raises as loading a model does, and `UsageError` for what the
task cannot use."""


@dataclass(frozen=True)
class Solved:
    """What became of one line: an answer, or a problem; and the record, if it is one at all."""

    line: int
    record: Record | None = None
    answer: Answer | None = None
    problem: RecordError | None = None


def read_records(lines: Iterable[bytes]) -> Iterator[tuple[int, Record | RecordError]]:
    """One JSON object a line, with its line number from 1; blank lines are skipped, others are a
    `RecordError`.
    """
    for line, raw in enumerate(lines, start=1):
        if raw.strip():
            yield line, _record(line, raw)


def text_field(record: Record, name: str, line: int) -> str:
    """A field that must hold text. Raises `RecordError` if it is missing, is none or is blank."""
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
    opened: Opened[Any], records: Iterable[tuple[int, Record | RecordError]], together: int = 256
) -> Iterator[Solved]:
    """Every record with its answer or its problem, in order; `together` are handed to the model at
    once.
    """
    iterator = iter(records)
    while chunk := list(islice(iterator, together)):
        made = [(line, record, _example(opened.task, record, line)) for line, record in chunk]
        outputs = iter(
            opened.solve([example for _, _, example in made if isinstance(example, Example)])
        )
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
        return RecordError(
            line, f"it is a JSON {type(record).__name__}; a record is one JSON object a line"
        )
    return record


def _example(task: Task[Any], record: Record | RecordError, line: int) -> Example | RecordError:
    if isinstance(record, RecordError):
        return record
    try:
        return task.example(record, line)
    except RecordError as error:
        return error
