"""Directories with an exported int8 model: writing, reading and checking them.

Such a directory holds the graphs of `graphs.py` as ONNX files, the Markov head if there is one,
configuration and tokenizer, and `int8.json`: the source of the graphs and the hash of every file.
The graphs run in ONNX Runtime alone; this package's loop around them needs PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file

from multistride.data.vocab import VOCABULARY_FILES, Vocabulary
from multistride.data.vocabulary_files import load_vocabulary
from multistride.engines.int8.buffers import GraphMaker
from multistride.engines.int8.entries import FORMAT, READ, file_of, graphs_in
from multistride.engines.int8.forms import by_row
from multistride.engines.int8.native.library import NATIVE
from multistride.engines.int8.weight_file import WeightFile
from multistride.errors import DataError
from multistride.files import sha256
from multistride.model.config import TransformerConfig
from multistride.model.directory import CONFIG, INT8_MANIFEST, INT8_WEIGHTS, load_config
from multistride.model.markov import MarkovHead
from multistride.model.transformer import Transformer
from multistride.untrusted import inside, read_object
from multistride.version import __version__

MARKOV = "markov.safetensors"


def write_int8(
    place: Path, model: Transformer, graphs: Mapping[str, Callable[[], bytes]], weights: str
) -> None:
    """Write graphs, Markov head and `int8.json` into `place`, beside configuration and tokenizer.

    `weights` is the SHA-256 of the weights that the graphs were made of.
    """
    names = [INT8_WEIGHTS]
    with (place / INT8_WEIGHTS).open("wb") as file:
        weight_file = WeightFile(file)
        for name, make in graphs.items():
            names.append(file_of(name))
            content = make() if name == NATIVE else weight_file.lightened(make())
            (place / names[-1]).write_bytes(content)
    if model.markov is not None:
        tensors = {name: tensor.contiguous() for name, tensor in model.markov.state_dict().items()}
        save_file(tensors, place / MARKOV)
        names.append(MARKOV)
    hashes = {name: sha256(place / name) for name in sorted([*names, CONFIG, *VOCABULARY_FILES])}
    manifest = {
        "format": FORMAT,
        "multistride": __version__,
        "source_weights_sha256": weights,
        "files": hashes,
    }
    (place / INT8_MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


class Exported(NamedTuple):
    """The contents of an export: all that `Int8StepModel` is made of, and the vocabulary."""

    config: TransformerConfig
    markov: Callable[[], MarkovHead] | None
    """Loads the Markov head, if there is one."""
    graphs: dict[str, GraphMaker]
    vocabulary: Vocabulary


def read_int8(directory: Path | str) -> Exported:
    """Return the contents of an export.

    Raises `DataError` for a file that is missing, damaged, of another model or for another version.
    """
    directory = Path(directory)
    names = list(_manifest(directory)["files"])
    config = load_config(directory)
    if not by_row(config) and "single.onnx" not in names:
        raise DataError(f"{directory / INT8_MANIFEST} is damaged: export the model again")
    graphs: dict[str, GraphMaker] = {
        name: partial(Path, directory / file) for name, file in graphs_in(names).items()
    }
    return Exported(config, markov_of(directory, config), graphs, load_vocabulary(directory))


def _manifest(directory: Path) -> dict[str, Any]:
    """Return the contents of `int8.json`, after checking every file against it."""
    path = directory / INT8_MANIFEST
    try:
        manifest = read_object(path)
        version, files = manifest["format"], dict(manifest["files"])
        if version in READ and not {CONFIG, "decoder.onnx"} <= files.keys():
            raise ValueError("no hashes")
    except (DataError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is missing or damaged: export the model again") from error
    if version not in READ:
        raise DataError(
            f"{directory} is an export of format {version}, and this version of multistride reads "
            f"formats {' and '.join(map(str, READ))}: "
            "export the model again"
        )
    for name, expected in files.items():
        place = inside(directory, name, "export the model again")
        if not place.is_file():
            raise DataError(f"{directory} has no {name}: export the model again")
        if sha256(place) != expected:
            raise DataError(
                f"{place} is damaged or belongs to another model ({INT8_MANIFEST} gives another "
                "hash): "
                "export the model again"
            )
    return manifest


def markov_of(directory: Path, config: TransformerConfig) -> Callable[[], MarkovHead] | None:
    """Return what reads the Markov head of an export; None for a model without one."""
    return partial(_markov, directory, config) if config.markov_rank else None


def _markov(directory: Path, config: TransformerConfig) -> MarkovHead:
    head = MarkovHead(config)
    head.load_state_dict(load_file(directory / MARKOV), assign=True)
    return head.eval().requires_grad_(False)
