"""`multistride.load`: a model of either kind, by its directory or the name it ships under."""

from __future__ import annotations

from pathlib import Path
from typing import overload

from multistride.engines.names import EngineName
from multistride.engines.open import opened_model
from multistride.generator import Generator
from multistride.shipped import existing
from multistride.translator import Translator


@overload
def load(path: None = None, device: str = "auto", engine: EngineName = "auto") -> Translator: ...


@overload
def load(
    path: Path | str | None, device: str = "auto", engine: EngineName = "auto"
) -> Translator | Generator: ...


def load(
    path: Path | str | None = None, device: str = "auto", engine: EngineName = "auto"
) -> Translator | Generator:
    """Return the model in a directory, or a shipped model by name; None: English to German.

    A model without an encoder is a `Generator`, whose `generate` continues prompts; any other is a
    `Translator`. Raises `DataError` for what is no model directory or is damaged, `UsageError` for
    a device or engine that does not suit the model, `MissingExtraError` for an engine that is not
    installed.
    """
    directory = existing(path)
    opened = opened_model(directory, device, engine)
    if opened[0].config.encoder_layers:
        return Translator.of_directory(opened, directory, device, engine)
    return Generator.of_directory(opened, directory, device, engine)
