"""Opening the model that a command line names, on the machine that it describes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from multistride.cli.options import Machine

if TYPE_CHECKING:
    from multistride.generator import Generator
    from multistride.translator import Translator


def open_model(machine: Machine, model: Path | None) -> Translator | Generator:
    """Return the model of a directory (None: the one that ships)."""
    with uncollected():
        from multistride.device import set_threads
        from multistride.loading import load

        set_threads(machine.threads)
        return load(model, machine.device, machine.engine)


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage while modules and models are loaded: a seventh of that time.

    They leave little garbage, and what they leave behind is not looked at again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
