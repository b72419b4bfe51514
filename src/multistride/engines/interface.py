"""The interface of every engine, and the record of which one `auto` took."""

from __future__ import annotations

import logging
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

import torch

from multistride.decode.step import M, StepModel
from multistride.engines.names import ENGINES, choice
from multistride.errors import UsageError
from multistride.model.transformer import Transformer

logger = logging.getLogger(__name__)


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
    _choices[engine] = choice(engine.name, why or engine.precision)
    return engine


def announce(engine: StepModel[Any]) -> None:
    """Log once which engine `auto` took. Call it before decoding: an error then stays one line."""
    if choice := _choices.pop(engine, None):
        logger.info(choice)


def is_automatic(engine: StepModel[Any]) -> bool:
    """Return true for an engine that `auto` took, with which exact mode drafts where that pays."""
    return engine in _automatic
