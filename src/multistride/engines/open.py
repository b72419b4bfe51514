"""Opening an engine by name, or a whole model. Each engine is imported only when requested."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from multistride.data.vocab import Vocabulary
from multistride.data.vocabulary_files import load_vocabulary
from multistride.device import pick_device
from multistride.engines.eager import EagerStepModel
from multistride.engines.interface import Engine, check_engine, chosen
from multistride.engines.names import EngineName, WeightForm
from multistride.errors import MissingExtraError, UsageError
from multistride.model.directory import is_export, load_config
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model


def opened_model(
    directory: Path, device: str, engine: EngineName
) -> tuple[Engine[Any], Vocabulary]:
    """Return the engine of a model directory (or of an export), and its vocabulary.

    Raises `DataError` if the directory is no model directory, `UsageError` for an unknown device or
    engine and for a classifier, `MissingExtraError` for an engine whose library is not installed.
    """
    check_engine(engine)
    if opened := open_export(directory, engine) or _open_kept(directory, device, engine):
        return opened
    model, vocabulary = load_model(directory, pick_device(device))
    if not model.config.decoder_layers:
        raise UsageError(f"{directory} is a classifier, which writes nothing: use classify")
    return open_engine(model, engine), vocabulary


def open_engine(model: Transformer, name: EngineName = "eager") -> Engine[Any]:
    """Return the engine called `name`, with the weights of `model` on the device where they are.

    `auto` is the fastest that runs here; `announce` says which one it is, and why.
    Raises `UsageError` for an unknown name, or an engine that cannot run this model or on this
    machine; `MissingExtraError` if the engine needs a library that is not installed.
    """
    check_engine(name)
    if name in ("int8", "int8-rows", "int4"):
        return _int8(model, name)
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
    from multistride.engines.int8.engine import Int8StepModel
    from multistride.engines.int8.export import read_int8
    from multistride.engines.int8.support import check_int8

    check_int8()
    exported = read_int8(directory)
    engine = Int8StepModel(exported.config, exported.markov, exported.graphs)
    return (chosen(engine) if name == "auto" else engine), exported.vocabulary


def _open_kept(
    directory: Path, device: str, name: EngineName
) -> tuple[Engine[Any], Vocabulary] | None:
    """Return the int8 engine with graphs from the cache, and the vocabulary; None where another
    engine is to run.
    """
    if name == "eager" or name == "gpu" or pick_device(device).type != "cpu":
        return None
    config = load_config(directory)
    from multistride.engines.int8.engine import Int8StepModel, int8_graphs
    from multistride.engines.int8.support import check_int8, check_supported

    form: WeightForm = "int8" if name == "auto" else name
    try:
        check_int8(form)
        check_supported(config)
    except (MissingExtraError, UsageError):
        return None  # opening the model says why
    from multistride.engines.int8.kept import kept_graphs

    kept = kept_graphs(directory, config, partial(int8_graphs, form=form), form)
    engine = Int8StepModel(config, kept.markov, kept.graphs, kept.weights, form=form)
    return (chosen(engine) if name == "auto" else engine), load_vocabulary(directory)


def _int8(model: Transformer, form: WeightForm = "int8") -> Engine[Any]:
    from multistride.engines.int8.engine import quantise
    from multistride.engines.int8.support import check_int8, check_supported

    check_int8(form)
    check_supported(model.config)
    if model.target_embedding.weight.device.type != "cpu":
        raise UsageError(
            f"the engine {form} was asked for on a GPU and runs on CPUs: choose --device cpu or "
            "--engine eager"
        )
    return quantise(model, form=form)


def _gpu(model: Transformer) -> Engine[Any]:
    from multistride.engines.gpu.engine import GpuStepModel, check_gpu

    check_gpu(model)
    if model.config.adapter is not None:
        raise UsageError(
            f"the engine gpu has no place for adapters on mask slots (adapter.rank "
            f"{model.config.adapter.rank}): choose --engine eager"
        )
    return GpuStepModel(model)


def _fastest(model: Transformer) -> Engine[Any]:
    on_gpu = model.target_embedding.weight.device.type == "cuda"
    try:
        engine = _gpu(model) if on_gpu else _int8(model)
    except (MissingExtraError, UsageError) as error:
        reason = str(error).removesuffix(": choose --engine eager")
        return chosen(EagerStepModel(model), f"because {reason}")
    return chosen(engine)
