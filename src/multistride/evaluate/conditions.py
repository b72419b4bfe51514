"""The conditions of a result: the model, the files, the machine and the versions."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from multistride.cpu import cpu_name
from multistride.engines.interface import Engine
from multistride.files import sha256
from multistride.model.directory import load_provenance, weights_digest
from multistride.version import __version__


def now() -> str:
    """Return the present time in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def model_conditions(directory: Path, engine: Engine[Any]) -> dict[str, Any]:
    """Return which weights were measured, and where they come from."""
    return {
        "model": str(directory),
        "model_sha256": weights_digest(directory),
        "parameters": sum(parameter.numel() for parameter in engine.model.parameters()),
        "trained_group_sizes": list(engine.config.group_sizes),
        "provenance": load_provenance(directory),
    }


def file_conditions(**files: Path | None) -> dict[str, str | None]:
    """Return the names and the hashes of the files that were measured on."""
    names = {name: None if path is None else str(path) for name, path in files.items()}
    hashes = {
        f"{name}_sha256": None if path is None else sha256(path) for name, path in files.items()
    }
    return {**names, **hashes}


def machine_conditions(engine: Engine[Any]) -> dict[str, Any]:
    """Return what computed: processor, precision and versions."""
    return {
        "threads": torch.get_num_threads(),
        "device": str(engine.device),
        "cpu": cpu_name(),
        "precision": engine.precision,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "multistride": __version__,
    }
