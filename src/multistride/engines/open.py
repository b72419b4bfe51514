"""Engines by name: the values of `--engine`. Each engine is imported only when requested."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, Protocol, get_args
from weakref import WeakKeyDictionary

import torch

from multistride.data.vocab import Vocabulary
from multistride.decode.step import M, StepModel
from multistride.engines.eager import EagerStepModel
from multistride.errors import MissingExtraError, UsageError
from multistride.model.transformer import Transformer
from multistride.model.weights import is_export

EngineName = Literal["eager", "int8", "gpu", "auto"]
ENGINES: tuple[EngineName, ...] = get_args(EngineName)
"""The names that `open_engine` knows."""

logger = logging.getLogger(__name__)

_choices: WeakKeyDictionary[StepModel[Any], str] = WeakKeyDictionary()
"""What `auto` took, in one line, for engines that have not decoded yet."""


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


def open_engine(model: Transformer, name: EngineName = "eager") -> Engine[Any]:
    """Return the engine called `name`, with the weights of `model` on the device where they are.

    `auto` is the fastest that runs here; `announce` says which one it is, and why.
    Raises `UsageError` for an unknown name, or an engine that cannot run this model or on this
    machine; `MissingExtraError` if the engine needs a library that is not installed.
    """
    check_engine(name)
    if name == "int8":
        return _int8(model)
    if name == "gpu":
        return _gpu(model)
    return _fastest(model) if name == "auto" else EagerStepModel(model)


def open_export(directory: Path | str, name: EngineName) -> tuple[Engine[Any], Vocabulary] | None:
    """The engine and vocabulary in a directory that `multistride export` wrote; None if it is none,
    or not asked for.

    Raises `DataError` for a damaged export or one for another version; otherwise as `open_engine`
    does.
    """
    if name not in ("int8", "auto") or not is_export(directory):
        return None
    from multistride.engines.int8.export import read_int8

    engine, vocabulary = read_int8(directory)
    return (_chosen(engine) if name == "auto" else engine), vocabulary


def announce(engine: StepModel[Any]) -> None:
    """Log once which engine `auto` took. Call it before decoding: an error then stays one line."""
    if choice := _choices.pop(engine, None):
        logger.info(choice)


def check_engine(name: str) -> None:
    """Raise `UsageError` unless there is an engine of this name."""
    if name not in ENGINES:
        raise UsageError(
            f"engine {name!r} was asked for; allowed are {', '.join(ENGINES)}: choose one of them"
        )


def _int8(model: Transformer) -> Engine[Any]:
    from multistride.engines.int8.engine import check_int8, check_supported, quantise

    check_int8()
    check_supported(model.config)
    if model.target_embedding.weight.device.type != "cpu":
        raise UsageError(
            "the engine int8 was asked for on a GPU and runs on CPUs: choose --device cpu or "
            "--engine eager"
        )
    return quantise(model)


def _gpu(model: Transformer) -> Engine[Any]:
    from multistride.engines.gpu.engine import GpuStepModel, check_gpu

    check_gpu(model)
    _check_plain(model, "gpu")
    return GpuStepModel(model)


def _check_plain(model: Transformer, name: str) -> None:
    """Raise `UsageError` for a model with features that only converted models have."""
    if model.config.extras:
        raise UsageError(
            f"the engine {name} was asked for, but it has no place for {model.config.extras[0]} of "
            "this model: "
            "choose --engine eager"
        )


def _fastest(model: Transformer) -> Engine[Any]:
    on_gpu = model.target_embedding.weight.device.type == "cuda"
    try:
        engine = _gpu(model) if on_gpu else _int8(model)
    except (MissingExtraError, UsageError) as error:
        return _chosen(EagerStepModel(model), f"because {error}")
    return _chosen(engine)


def _chosen(engine: Engine[Any], why: str = "") -> Engine[Any]:
    """Return an engine that `auto` took, to be announced with its precision, or with `why`."""
    _choices[engine] = f"engine: {engine.name}, {why or engine.precision}"
    return engine
