"""The verbs of tasks: `classify` documents, `answer` questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistride.cli.console import reading, refuse_shared_files, writing
from multistride.cli.fields import Fields
from multistride.cli.opening import open_model
from multistride.cli.options import Lines, Machine, NeededModelOption, note_untrained
from multistride.decode.options import DecodeOptions
from multistride.errors import DataError, UsageError
from multistride.tasks.answering.settings import AnswerSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from multistride.tasks.classification.classifier import Classifier
    from multistride.tasks.record import Record, RecordError


def classify(
    *,
    model: NeededModelOption,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files to classify: a .jsonl has one document per line, any other "
            "file is one document. Default: one document per line of stdin."
        ),
    ] = None,
    lines: Annotated[Lines, Fields(only=("source", "output", "as_json"))],
    records: Annotated[
        bool,
        typer.Option(
            "--records",
            help="Read each line as a JSON object with a text.",
            rich_help_panel="Input",
        ),
    ] = False,
    field: Annotated[
        str,
        typer.Option(help="Field of a JSON object that holds the text.", rich_help_panel="Input"),
    ] = "text",
    classes: Annotated[
        Path | None,
        typer.Option(
            help="File with one class a line: refuse to run unless they are the model's classes.",
            rich_help_panel="Input",
        ),
    ] = None,
    decoding: Annotated[DecodeOptions, Fields(only=("group_size", "batch_size"))],
    machine: Annotated[Machine, Fields(only=("device", "threads"))],
) -> None:
    """Classify documents of any length.

    One line per document, in order: its class (--json: the probability of every class). A document
    without an answer, such as an empty one, becomes an empty line; stderr names it, and the exit
    code is 4.

    Example: multistride classify --model RUN/best --json < documents.txt
    """
    if files and (lines.source or records):
        raise UsageError(
            "files were given, which are read as they are: leave --input and --records out"
        )

    from multistride.tasks.classification.task import opened_classifier
    from multistride.tasks.record import solved
    from multistride.tasks.streams import records_of_files, write_answers

    refuse_shared_files([lines.source, *(files or ())], [lines.output])
    task = opened_classifier(_classifier(model, machine, classes), field)
    way = task.settle(decoding)
    with reading(None if files else lines.source) as texts, writing(lines.output) as output:
        taken = records_of_files(files, field) if files else _documents(texts, records, field)
        failed = write_answers(solved(task, taken, way, 64), output, lines.as_json)
    _complete(failed, "documents")


def _documents(
    texts: Iterable[bytes], records: bool, field: str
) -> Iterator[tuple[int, Record | RecordError]]:
    """Return the documents of lines: one each, as JSON objects if they are `records`."""
    from multistride.tasks.record import read_records
    from multistride.tasks.streams import records_of_lines

    return read_records(texts, every_line=True) if records else records_of_lines(texts, field)


def _classifier(model: Path, machine: Machine, classes: Path | None) -> Classifier:
    """Return the classifier of a directory, if its classes are those of a file."""
    from multistride.data.corpus import read_lines
    from multistride.device import set_threads
    from multistride.tasks.classification.classifier import Classifier, check_class_list

    set_threads(machine.threads)
    classifier = Classifier.load(model, machine.device)
    if classes is not None:
        check_class_list(classifier, classes, read_lines(classes), model)
    return classifier


def _complete(failed: int, what: str) -> None:
    """Raise `DataError` if some records have no answer."""
    if failed:
        raise DataError(
            f"{failed} of the {what} have no answer (named above); their lines are empty"
        )


def answer(
    *,
    model: NeededModelOption,
    lines: Annotated[Lines, Fields(only=("source", "output", "as_json"))],
    passages: Annotated[AnswerSettings, Fields()],
    decoding: Annotated[
        DecodeOptions,
        Fields(
            only=("group_size", "mode", "drafts", "beam", "max_tokens", "batch_size"),
            defaults={"max_tokens": 32},
        ),
    ],
    machine: Annotated[Machine, Fields()],
) -> None:
    """Answer questions about passages, or choose one of several answers.

    Each line of stdin is a JSON object with a "question", and a "passage" or "choices" (a list of
    texts) or both. One line per question, in order (--json adds scores, the position in the
    passage, and the probability of each choice). A question without an answer becomes an empty
    line; stderr names it, and the exit code is 4.

    Example: echo '{"question": "Who ran?", "passage": "Two dogs ran."}' | multistride answer
    --model RUN/best
    """
    from multistride.tasks.answering.answerer import answering
    from multistride.tasks.record import read_records, solved
    from multistride.tasks.streams import write_answers

    refuse_shared_files([lines.source], [lines.output])
    opened = open_model(machine, model)
    task = answering(opened, passages)
    way = task.settle(decoding)
    note_untrained(way.group_size, opened.config.group_sizes)
    with reading(lines.source) as texts, writing(lines.output) as output:
        answers = solved(task, read_records(texts, every_line=True), way)
        failed = write_answers(answers, output, lines.as_json)
    _complete(failed, "questions")
