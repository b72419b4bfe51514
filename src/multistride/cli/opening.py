"""Opening the model that a command line names, on the machine that it describes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from multistride.cli.options import Machine
from multistride.cli.quiet import uncollected

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
