"""Engines by name: what `--engine` means. Each engine is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from multistride.engines.eager import EagerStepModel
from multistride.errors import UsageError
from multistride.model.step import M, StepModel
from multistride.model.transformer import Transformer

ENGINES = ("eager",)
"""The names that `open_engine` knows."""


class Engine(StepModel[M], Protocol[M]):
    """A `StepModel` that says what it is and gives the weights it was made from (scoring and inspection use them)."""

    name: str
    precision: str

    @property
    def model(self) -> Transformer:
        """The weights in float32."""

    @property
    def device(self) -> torch.device:
        """Where the engine computes."""


def open_engine(
    model: Transformer, name: str = "eager", *, report: Callable[[str], None] = lambda line: None
) -> Engine[Any]:
    """The engine called `name`, with the weights of `model` on the device where they are.

    `report` hears, in one line, what `auto` picked. Raises `UsageError` for an unknown name, or an engine that cannot
    run this model or on this machine; `MissingExtraError` if the engine needs a library that is not installed.
    """
    check_engine(name)
    return EagerStepModel(model)


def check_engine(name: str) -> None:
    """Raise `UsageError` unless there is an engine of this name."""
    if name not in ENGINES:
        raise UsageError(f"engine {name!r} was asked for; allowed are {', '.join(ENGINES)}: choose one of them")
