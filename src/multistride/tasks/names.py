"""The tasks by name, for `multistride evaluate --task NAME`."""

from __future__ import annotations

from multistride.errors import UsageError
from multistride.tasks.answering.answerer import open_answering, open_free_answering
from multistride.tasks.classification.task import open_classification
from multistride.tasks.generation.task import open_generation
from multistride.tasks.record import Open
from multistride.tasks.translation.task import open_translation

TASKS: dict[str, Open] = {
    "classification": open_classification,
    "translation": open_translation,
    "answering": open_answering,
    "answering-free": open_free_answering,
    "generation": open_generation,
}

WITH_TEACHER = ("generation",)
"""Tasks whose answers are compared with those of a teacher."""


def task_named(name: str) -> Open:
    """Return what opens the task. Raises `UsageError` with the names there are."""
    if name not in TASKS:
        raise UsageError(f"--task is {name!r}; there are {', '.join(TASKS)}: name one of these")
    return TASKS[name]
