"""The verb `classify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multistride.cli.console import reading, refuse_shared_files, writing
from multistride.cli.fields import Fields
from multistride.cli.options import Lines, Machine, NeededModelOption
from multistride.decode.options import DecodeOptions
from multistride.errors import DataError, UsageError


def classify(
    *,
    model: NeededModelOption,
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Documents: a file each, or .jsonl (default: lines of stdin)."),
    ] = None,
    lines: Annotated[Lines, Fields(only=("source", "output", "as_json"))],
    records: Annotated[
        bool,
        typer.Option(
            "--records",
            help="Read the lines as JSON objects that hold a text.",
            rich_help_panel="Input",
        ),
    ] = False,
    field: Annotated[
        str, typer.Option(help="Their field that holds it.", rich_help_panel="Input")
    ] = "text",
    classes: Annotated[
        Path | None,
        typer.Option(
            help="Refuse to run unless these are the model's classes, one a line.",
            rich_help_panel="Input",
        ),
    ] = None,
    decoding: Annotated[DecodeOptions, Fields(only=("group_size", "batch_size"))],
    machine: Annotated[Machine, Fields(only=("device", "threads"))],
) -> None:
    """Say to which class each document belongs, however long it is.

    One line per document, in order: the class (--json: the probabilities of all). A document
    without an answer, an empty one too, becomes an empty line; stderr names it, and the exit code
    is 4.

    Example: multistride classify --model RUN/best --json < documents.txt
    """
    if files and (lines.source or records):
        raise UsageError(
            "files were given, which are read as they are: leave --input and --records out"
        )

    from multistride.data.corpus import read_lines
    from multistride.device import set_threads
    from multistride.tasks.classification.classifier import Classifier, check_class_list
    from multistride.tasks.classification.task import opened_classifier
    from multistride.tasks.record import read_records, solved
    from multistride.tasks.streams import records_of_files, records_of_lines, write_answers

    refuse_shared_files([lines.source, *(files or ())], [lines.output])
    set_threads(machine.threads)
    classifier = Classifier.load(model, machine.device)
    task = opened_classifier(classifier, field)
    way = task.settle(decoding)
    if classes is not None:
        check_class_list(classifier, classes, read_lines(classes), model)
    with reading(None if files else lines.source) as texts, writing(lines.output) as output:
        taken = records_of_files(files, field) if files else None
        taken = taken or (read_records(texts) if records else records_of_lines(texts, field))
        failed = write_answers(solved(task, taken, way, 64), output, lines.as_json)
    if failed:
        raise DataError(
            f"{failed} of the documents have no answer (named above); their lines are empty"
        )
