"""The tasks by name, for `multistride evaluate --task NAME`: a new task is one file and one line
here.
"""

from __future__ import annotations

from multistride.errors import UsageError
from multistride.tasks.answerer import open_answering, open_free_answering
from multistride.tasks.classification import open_classification
from multistride.tasks.generation import open_generation
from multistride.tasks.task import Open
from multistride.tasks.translation import open_translation

TASKS: dict[str, Open] = {
    "classification": open_classification,
    "translation": open_translation,
    "answering": open_answering,
    "answering-free": open_free_answering,
    "generation": open_generation,
}

WRITING = ("generation",)
"""Those that take `task.Writing`."""


def task_named(name: str) -> Open:
    """How the task is opened. Raises `UsageError` with the names there are."""
    if name not in TASKS:
        raise UsageError(f"--task is {name!r}; there are {', '.join(TASKS)}: name one of these")
    return TASKS[name]
