"""The verbs for tasks, and `evaluate --task`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from multistride.cli.console import numbers, print_json, reading, say, words, writing
from multistride.cli.options import (
    BatchSizeOption,
    DeviceOption,
    InputOption,
    LinesOption,
    OutputOption,
    ThreadsOption,
)
from multistride.errors import DataError, UsageError

_NOT_FOR_TASKS = {
    "reference": None,
    "layout": None,
    "kind": "translation",
    "chat": False,
    "tokenize": "13a",
}
"""Options of `evaluate` that say nothing to a task, and what they are where they were not given."""

_WRITING = {"threshold": None, "policy": None, "max_tokens": None, "teacher": None}
"""Those for tasks that write texts, and what they are where they were not given."""


def evaluate_records(given: dict[str, Any]) -> None:
    """`evaluate --task`: what `evaluate` was given, by the names of its parameters."""
    for name, unset in _NOT_FOR_TASKS.items():
        if given[name] != unset:
            raise UsageError(f"--{name.replace('_', '-')} is not for --task: leave it out")

    from rich.console import Console

    from multistride.config import validate
    from multistride.device import set_threads
    from multistride.evaluate.tasks import TaskEvaluation, evaluate_task
    from multistride.files import write_json
    from multistride.report.show import task_table_of
    from multistride.shipped import DEFAULT

    set_threads(given["threads"])
    model = given["model"] or DEFAULT
    taken = ("task", "source", "drafts", "beam", "engine", "device", "batch_size", "limit")
    tree = {name: given[name] for name in taken} | {
        "group_sizes": numbers(given["group_size"]),
        "model": model,
    }
    tree |= {"modes": words(given["mode"]), "latency_records": given["latency_sentences"]}
    tree["writing"] = {
        name: given[name] for name, unset in _WRITING.items() if given[name] != unset
    }
    result = evaluate_task(
        validate(TaskEvaluation, {**tree, "name": given["name"] or model.name}, "evaluate"), say
    )
    found = result.model_dump(mode="json")
    if given["output"] is not None:
        write_json(given["output"], found)
        say(f"written: {given['output']}")
    if given["as_json"]:
        print_json(found)
    else:
        Console().print(task_table_of(result))
    if result.failed:
        raise DataError(
            f"{result.failed} of the records have no answer (named above); they count in no figure"
        )


def classify(
    model: Annotated[Path, typer.Option(help="Directory of a classifier, for example RUN/best.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Documents: a file each, or .jsonl; left out: lines of stdin."),
    ] = None,
    records: Annotated[
        bool, typer.Option("--records", help="The lines are JSON objects with a text.")
    ] = False,
    field: Annotated[str, typer.Option(help="Their field that holds it.")] = "text",
    classes: Annotated[
        Path | None,
        typer.Option(help="Refuse to run unless these are the model's classes, one a line."),
    ] = None,
    group_size: Annotated[
        int, typer.Option(min=1, help="Labels as targets: their tokens per step (K).")
    ] = 1,
    batch_size: BatchSizeOption = 32,
    source: InputOption = None,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: LinesOption = False,
) -> None:
    """Say to which class each document belongs, however long it is.

    One line per document, in order: the class (--json: the probabilities of all). A document
    without an answer, an empty one too, is an empty line; stderr names it, and the exit code is 4.

    Example: multistride classify --model RUN/best --json < documents.txt
    """
    if files and (source or records):
        raise UsageError(
            "files were given, which are read as they are: leave --input and --records out"
        )

    from multistride.data.corpus import read_lines
    from multistride.device import set_threads
    from multistride.tasks.classification.classifier import Classifier, check_class_list
from multistride.tasks.classification.task import opened_classifier
    from multistride.tasks.streams import records_of_files, records_of_lines, write_answers
    from multistride.tasks.record import read_records, solved

    set_threads(threads)
    classifier = Classifier.load(model, device, group_size, batch_size)
    if classes is not None:
        check_class_list(classifier, classes, read_lines(classes), model)
    with reading(source) as lines, writing(output) as text:
        taken = records_of_files(files, field) if files else None
        taken = taken or (read_records(lines) if records else records_of_lines(lines, field))
        failed = write_answers(
            solved(opened_classifier(classifier, field), taken, 64), text, as_json, say
        )
    if failed:
        raise DataError(
            f"{failed} of the documents have no answer (named above); their lines are empty"
        )
