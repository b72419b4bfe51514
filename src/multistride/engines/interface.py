"""The names of the engines, which are the values of `--engine`, and what every engine offers."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import torch

from multistride.decode.step import M, StepModel
from multistride.errors import UsageError
from multistride.model.transformer import Transformer

EngineName = Literal["eager", "int8", "gpu", "auto"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
"""The names that `open_engine` takes."""


class Engine(StepModel[M], Protocol[M]):
    """A `StepModel` with a name and the weights it was made from, for scoring and inspection."""

    name: str
    precision: str

    @property
    def model(self) -> Transformer:
        """The weights in float32."""

    @property
    def device(self) -> torch.device:
        """The device of the computation."""


def check_engine(name: str) -> None:
    """Raise `UsageError` unless there is an engine of this name."""
    if name not in ENGINES:
        raise UsageError(
            f"engine {name!r} was asked for; allowed are {', '.join(ENGINES)}: choose one of them"
        )
