"""Files of a model directory that are read without PyTorch: configuration, hashes, calibration."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from multistride.config import first_problem
from multistride.errors import DataError, UsageError
from multistride.files import sha256
from multistride.model.config import TransformerConfig
from multistride.untrusted import read_json, read_object

CONFIG, WEIGHTS, PROVENANCE = "config.json", "model.safetensors", "provenance.json"


CALIBRATION = "calibration.json"
"""Written beside the others by `multistride calibrate`; a model loads without it."""


TEMPERATURE = "temperature.json"
"""The same for a classifier."""


_OF_TRANSFORMERS = ("architectures", "auto_map", "dtype", "transformers_version")
"""Keys of config.json that are not ours to read."""


Stored = TypeVar("Stored", bound=BaseModel)


INT8_MANIFEST = "int8.json"
"""Marks a directory as an int8 export, which holds no float32 weights."""

INT8_WEIGHTS = "weights.bin"
"""The large constants of its graphs."""

INT8_NATIVE = "native.bin"
"""Its weights as the native kernels read them."""


def is_export(directory: Path | str) -> bool:
    """Return true for an int8 export without float32 weights."""
    return (Path(directory) / INT8_MANIFEST).is_file() and not (Path(directory) / WEIGHTS).is_file()


def weights_digest(directory: Path | str) -> str:
    """Return the SHA-256 of a model's weights, of an export that of the weights it was made from.

    So calibrations, parts and results name the same model whichever form of it was opened. Raises
    `DataError` if there are no weights.
    """
    place = Path(directory)
    try:
        if not is_export(place) and not (place / WEIGHTS).is_file():
            raise DataError(WEIGHTS)  # a pipe would be waited for
        if is_export(place):
            return str(read_object(place / INT8_MANIFEST)["source_weights_sha256"])
        return sha256(place / WEIGHTS)
    except (OSError, DataError, KeyError) as error:
        raise DataError(
            f"{directory} does not say which weights it has: copy the model, or export it again"
        ) from error


def load_config(directory: Path | str) -> TransformerConfig:
    """Return the configuration of a model directory. Raises `DataError` if it has none."""
    path = Path(directory) / CONFIG
    if not path.is_file():
        best = Path(directory) / "best"
        advice = f"give {best}" if (best / CONFIG).is_file() else "give one that has"
        raise DataError(f"{directory} is no model directory: it has no {CONFIG}: {advice}")
    try:
        stored = read_json(path, "copy the model again")
        if not isinstance(stored, dict) or stored.pop("model_type", None) != "multistride":
            raise DataError(
                f"{path} is not of a multistride model: its model_type is not 'multistride'"
            )
        for name in _OF_TRANSFORMERS:
            stored.pop(name, None)
        config = TransformerConfig.model_validate(stored)
    except ValidationError as error:
        raise DataError(
            f"{path} is not a model configuration: {first_problem(error, TransformerConfig)}"
        ) from error
    if config.vocabulary_size == 0:
        raise DataError(f"{path} does not say its vocabulary_size: copy the model again")
    return config


def refuse_models(output: Path, mark: str | None, what: str) -> None:
    """Raise `UsageError` if a model would be replaced by `what`, which is not its like: its
    provenance does not have the `mark` of those.
    """
    if (output / WEIGHTS).is_file() and (mark is None or mark not in load_provenance(output)):
        raise UsageError(
            f"{output} holds a model, which {what} would replace: name another directory"
        )


MADE_BESIDE = (CALIBRATION, TEMPERATURE, "phrases.npy", "draft_head.safetensors")
"""Files that are made for a model after it, and beside it."""


def refuse_made(output: Path, what: str, remade: Collection[str] = ()) -> None:
    """Raise `UsageError` if `what` would delete a file that was made for the model in `output`.

    Files with a SHA-256 digest in `remade` are written again, or can be.
    """
    for name in MADE_BESIDE:
        path = output / name
        if path.is_file() and sha256(path) not in remade:
            raise UsageError(
                f"{path} was made for the model there, and {what} would delete it: name another "
                "directory, or move it away"
            )


def load_provenance(directory: Path | str) -> dict[str, Any]:
    """Return the provenance of a model; empty if the file is missing."""
    path = Path(directory) / PROVENANCE
    try:
        return read_object(path)
    except DataError:
        return {}


def load_calibration(
    directory: Path | str, kind: type[Stored], name: str = CALIBRATION
) -> Stored | None:
    """Return a measured calibration as `kind`; None if there is no such file.

    Raises `DataError` if it is damaged, or was measured on other weights.
    """
    path = Path(directory) / name
    if not path.exists():
        return None
    try:
        stored = read_object(path)
        calibration = kind.model_validate(stored)
    except (DataError, ValidationError) as error:
        raise DataError(
            f"{path} is damaged: delete it, or run `multistride calibrate` again"
        ) from error
    if stored.get("model_sha256") != weights_digest(directory):
        raise DataError(
            f"{path} was measured on other weights: delete it, or run `multistride calibrate` again"
        )
    return calibration
