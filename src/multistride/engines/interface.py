"""The names of the engines, which are the values of `--engine`, and what every engine offers."""

from __future__ import annotations

import logging
from typing import Any, Literal, Protocol, get_args
from weakref import WeakKeyDictionary, WeakSet

import torch

from multistride.decode.step import M, StepModel
from multistride.errors import UsageError
from multistride.model.transformer import Transformer

logger = logging.getLogger(__name__)

EngineName = Literal["eager", "int8", "int8-rows", "int4", "gpu", "auto"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
"""The names that `open_engine` takes."""

WeightForm = Literal["int8", "int8-rows", "int4"]
"""The forms of the weights of the engines on ONNX Runtime: 8 bits as suits
the model, 8 bits with one scale for each row, and 4 bits. They are the names of these engines."""


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


_choices: WeakKeyDictionary[StepModel[Any], str] = WeakKeyDictionary()
"""What `auto` took, in one line, for engines that have not decoded yet."""


_automatic: WeakSet[StepModel[Any]] = WeakSet()
"""The engines that `auto` took."""


def chosen(engine: Engine[Any], why: str = "") -> Engine[Any]:
    """Return an engine that `auto` took, to be announced with its precision, or with `why`."""
    _automatic.add(engine)
    _choices[engine] = f"engine: {engine.name}, {why or engine.precision}"
    return engine


def announce(engine: StepModel[Any]) -> None:
    """Log once which engine `auto` took. Call it before decoding: an error then stays one line."""
    if choice := _choices.pop(engine, None):
        logger.info(choice)


def is_automatic(engine: StepModel[Any]) -> bool:
    """Return true for an engine that `auto` took, with which exact mode drafts where that pays."""
    return engine in _automatic
