"""The verbs for tasks, and `evaluate --task`."""

from __future__ import annotations

from typing import Any

from multistride.console import numbers, print_json, say, words
from multistride.errors import DataError, UsageError

_NOT_FOR_TASKS = {
    "reference": None,
    "layout": None,
    "kind": "translation",
    "chat": False,
    "tokenize": "13a",
}
"""Options of `evaluate` that say nothing to a task, and what they are where they were not given."""

_WRITING = {"threshold": None, "policy": None, "beam": 1, "max_tokens": None, "teacher": None}
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
    from multistride.report.tasks import task_table
    from multistride.shipped import DEFAULT

    set_threads(given["threads"])
    model = given["model"] or DEFAULT
    taken = ("task", "source", "engine", "device", "batch_size", "limit")
    tree = {name: given[name] for name in taken} | {"group_sizes": numbers(given["group_size"]), "model": model}
    tree |= {"modes": words(given["mode"]), "latency_records": given["latency_sentences"]}
    tree["writing"] = {name: given[name] for name, unset in _WRITING.items() if given[name] != unset}
    result = evaluate_task(validate(TaskEvaluation, {**tree, "name": given["name"] or model.name}, "evaluate"), say)
    found = result.model_dump(mode="json")
    if given["output"] is not None:
        write_json(given["output"], found)
        say(f"written: {given['output']}")
    if given["as_json"]:
        print_json(found)
    else:
        Console().print(task_table(result))
    if result.failed:
        raise DataError(f"{result.failed} of the records have no answer (named above); they count in no figure")
