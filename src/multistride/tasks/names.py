"""The tasks by name, for `multistride evaluate --task NAME`, each with its models opened."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from multistride.errors import UsageError
from multistride.loading import load
from multistride.metrics.overlap import check_rouge
from multistride.tasks.answering.answerer import answering
from multistride.tasks.answering.question import Found
from multistride.tasks.answering.settings import AnswerSettings
from multistride.tasks.classification.task import open_classification
from multistride.tasks.generation.task import generation
from multistride.tasks.record import Open, Opened, Opening
from multistride.tasks.sentences import SentenceTranslator
from multistride.tasks.translation.task import translation
from multistride.text_model import TextModel
from multistride.translation import Translation
from multistride.translator import Translator


def open_translation(opening: Opening) -> Opened[str]:
    """Return a translator behind the task. Raises as `Translator.load` does."""
    translator = Translator.load(opening.model, opening.device, opening.engine)
    return translation(SentenceTranslator(translator) if opening.sentences else translator)


def open_answering(opening: Opening) -> Opened[Found]:
    """Open the task whose answers are spans of the passage. Raises as `load` does."""
    return answering(_opened(opening, opening.model), AnswerSettings(), "answering")


def open_free_answering(opening: Opening) -> Opened[Found]:
    """Open the task whose answers are any text. Raises as `load` does."""
    settings = AnswerSettings(free=True)
    return answering(_opened(opening, opening.model), settings, "answering-free")


def open_generation(opening: Opening) -> Opened[Translation]:
    """Return a model behind the task, and its teacher where one is named.

    Raises as `load` does, `UsageError` for a teacher of another kind, and `MissingExtraError`
    without the package rouge-score, before anything is written.
    """
    check_rouge()
    model = _opened(opening, opening.model)
    teacher = None if opening.teacher is None else _opened(opening, opening.teacher)
    return generation(model, teacher)


def _opened(opening: Opening, directory: Path) -> TextModel:
    return load(directory, opening.device, opening.engine)


TASKS: dict[str, Open] = {
    "classification": open_classification,
    "translation": open_translation,
    "answering": open_answering,
    "answering-free": open_free_answering,
    "generation": open_generation,
}


def task_named(name: str) -> Open:
    """Return what opens the task of a name, or the function `module:function`, whose module is
    looked for in the working directory, too.

    Raises `UsageError` with the names there are, and for a function that is not there.
    """
    if name in TASKS:
        return TASKS[name]
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise UsageError(
            f"--task is {name!r}; there are {', '.join(TASKS)}: name one of these, or your own as "
            "module:function"
        )
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UsageError(
            f"--task is {name!r}, and there is no module {module}, neither installed nor in the "
            "working directory: name another"
        ) from error
    except AttributeError as error:
        raise UsageError(
            f"--task is {name!r}, and the module {module} has no {function}: name its function"
        ) from error
    finally:
        sys.path.pop(0)
    opened: Open = found
    return opened
