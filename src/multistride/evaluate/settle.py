"""Checks before minutes of work: names, files, tokenizers, pictures.

A measurement must not be lost to its label or to a file that cannot be written, so everything that
can be refused is refused here, before a model is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from multistride.errors import UsageError
from multistride.files import check_writable
from multistride.metrics.quality import check_tokenizer
from multistride.report.drawing import check_picture

_OF_A_RUN = ("best", "last", "checkpoints")
"""Directories of a run, whose name says less than that of the run."""


def settled_name(name: str | None, model: Path) -> str:
    """Return the title of a result: the one that was given, else the name of the model or its run.

    Raises `UsageError` for a blank title.
    """
    if name is not None:
        if not name.strip():
            raise UsageError("--name is blank: give a title, or leave it out")
        return name
    place = Path(os.path.abspath(model))
    while place.name in _OF_A_RUN or place.name.startswith("step_"):
        place = place.parent
    return place.name or "model"


def settle(
    outputs: Iterable[Path | None], tokenize: str | None = None, picture: Path | None = None
) -> None:
    """Check everything that is needed only at the end of a measurement.

    Raises `UserError` for a file that cannot be written, `UsageError` for an unknown tokenizer or a
    picture that is neither .svg nor .png, `MissingExtraError` for what is not installed.
    """
    for path in (*outputs, picture):
        if path is not None:
            check_writable(path)
    if tokenize is not None:
        check_tokenizer(tokenize)
    if picture is not None:
        check_picture(picture)
