"""The configuration, tensors and tokenizer files of a checkpoint. No code of it is ever run.

A source is a directory as transformers writes it, or a model on the Hugging Face hub;
`convert/gguf.py` makes the same of a GGUF file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from multistride import untrusted
from multistride.errors import DataError, MissingExtraError
from multistride.files import sha256
from multistride.untrusted import MOST_TOKENIZER, inside, read_text, tensor_shapes

try:
    import huggingface_hub
except ImportError:  # fetched says so
    huggingface_hub = None

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "pytorch_model.pt")
_ADAPTER = "adapter_config.json"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FETCHED = ["*.json", "*.safetensors", "*.spm", "*.jinja", "README.md", "LICENSE*"]

Reader = Callable[[str], Tensor]
"""Gives the tensor of a name."""


@dataclass
class Checkpoint:
    """A checkpoint in the terms of transformers: `config` as in its config.json, tensors by the
    names it has there.

    `tokenizer` is the text of a tokenizer.json (None: there is none), `tokenizer_config` what
    stands beside it; `generation` is generation_config.json. `directory` is where other files of it
    may lie.
    """

    name: str
    config: dict[str, Any]
    names: frozenset[str]
    read: Reader
    tokenizer: str | None
    tokenizer_config: dict[str, Any]
    generation: dict[str, Any] = field(default_factory=dict)
    directory: Path | None = None
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        """Return what transformers calls the layout."""
        return str(self.config.get("model_type", ""))


def read_directory(directory: Path, name: str) -> Checkpoint:
    """Return the checkpoint in a directory.

    Raises `DataError` if it is incomplete or broken, has its weights in pickles, or needs its own
    code to run.
    """
    if (directory / _ADAPTER).is_file() and not (directory / "config.json").is_file():
        raise DataError(
            f"{name} holds an adapter ({_ADAPTER}), not a model: load both in peft, call "
            "merge_and_unload, and save_pretrained the model with its tokenizer"
        )
    config = read_json(directory / "config.json", f"{name} is no checkpoint of transformers")
    if not _is_native(config):
        raise DataError(
            f"{name} brings its own program code (auto_map in config.json), which is never "
            "executed here: "
            "convert a model whose architecture transformers itself has"
        )
    if config.get("quantization_config"):
        said = config["quantization_config"]
        named = said.get("quant_method") if isinstance(said, dict) else None
        method = named or "an unknown method"
        raise DataError(
            f"{name} has quantised weights ({method}): convert the checkpoint they were made of; "
            "the int8 engine quantises by itself"
        )
    weights = _weight_files(directory, name)
    places = {}
    for path in weights:
        places.update(dict.fromkeys(_names_in(path), path))
    template = directory / "chat_template.jinja"
    settings = _optional_json(directory / "tokenizer_config.json")
    if template.is_file():
        settings["chat_template"] = read_text(template)
    tokenizer = directory / "tokenizer.json"
    return Checkpoint(
        name=name,
        config=config,
        names=frozenset(places),
        read=lambda tensor: _tensor(places[tensor], tensor),
        tokenizer=read_text(tokenizer, MOST_TOKENIZER) if tokenizer.is_file() else None,
        tokenizer_config={**_special_tokens(directory), **settings},
        generation=_optional_json(directory / "generation_config.json"),
        directory=directory,
        hashes={path.name: sha256(path) for path in [directory / "config.json", *weights]},
    )


def _is_native(config: dict[str, Any]) -> bool:
    """Return whether no code of the checkpoint is needed to read it.

    Some files (Phi-3) name code of their own for classes that transformers has had since, under the
    name of the layout; transformers then runs its own.
    """
    kind = str(config.get("model_type", "")).replace("_", "").lower()
    given = config.get("auto_map") or {}
    named = given.values() if isinstance(given, dict) else [given]
    classes = [each.rpartition(".")[2].lower() if isinstance(each, str) else "" for each in named]
    return all(kind and name.startswith(kind) for name in classes)


def fetched(name: str, download: bool = True) -> Path:
    """Return the directory of a model on the hub: from the cache where it is complete there, else
    downloaded, if that was asked for.

    Without `download` nothing is asked of the network. Raises `MissingExtraError` without
    huggingface_hub and `DataError` if the name is none or nothing can be had.
    """
    if not _HUB_NAME.fullmatch(name):
        raise DataError(
            f"{name} is neither a directory nor a GGUF file nor the name of a model on the hub "
            "(like "
            "owner/model): give one of these"
        )
    if huggingface_hub is None:
        raise MissingExtraError(
            f"{name} is not a directory, and the hub needs pip install 'multistride[hf]'"
        )
    where: dict[str, Any] = {} if download else {"local_files_only": True}
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_FETCHED, **where))
    # the library raises its own, those of its HTTP client and of the system
    except Exception as error:
        if not download:
            raise DataError(
                f"{name} is no directory here, and not in the cache of the hub: correct the path, "
                "or give --download to fetch a model of that name"
            ) from error
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{name} is no directory here and could not be fetched from the hub "
            f"({type(error).__name__}: {reason}): "
            "give a directory that holds the model"
        ) from error


def read_json(path: Path, otherwise: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises `DataError`, which begins with `otherwise`, if there is none.
    """
    try:
        return untrusted.read_object(path, "download it again")
    except DataError as error:
        raise DataError(f"{otherwise}: {error}") from error


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path, f"{path.parent} is damaged") if path.is_file() else {}


def _special_tokens(directory: Path) -> dict[str, Any]:
    """Return what older versions of transformers kept in a file of its own."""
    return _optional_json(directory / "special_tokens_map.json")


def _weight_files(directory: Path, name: str) -> list[Path]:
    if (directory / WEIGHTS).is_file():  # which transformers prefers, too
        return [directory / WEIGHTS]
    if (directory / INDEX).is_file():
        index = read_json(directory / INDEX, f"{name} is damaged").get("weight_map")
        if not isinstance(index, dict) or not index:
            raise DataError(f"{name} is damaged: {INDEX} has no weight_map: download it again")
        shards = {
            str(shard): inside(directory, shard, "download it again") for shard in index.values()
        }
        paths = [shards[shard] for shard in sorted(shards)]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise DataError(
                f"{name} lacks {len(missing)} of its {len(paths)} weight files, the first is "
                f"{missing[0]}: "
                "download it again"
            )
        return paths
    names = sorted(path.name for path in directory.glob("*.safetensors"))
    if names:
        raise DataError(
            f"{name} has {len(names)} files of weights, the first is {names[0]}, and not the "
            f"{INDEX} that lists them: copy that file too"
        )
    pickles = [pickle for pickle in PICKLES if (directory / pickle).is_file()]
    if pickles:
        raise DataError(
            f"{name} has its weights in {pickles[0]}, a pickle, which can run any code when it is "
            "read: take a "
            "version with model.safetensors, or, if you trust it, load it in transformers and "
            "save_pretrained it"
        )
    raise DataError(
        f"{name} has no weights: neither {WEIGHTS} nor {INDEX} is there (pickles are not read): "
        "download it again, "
        "or take a version that has them"
    )


def _names_in(path: Path) -> Iterable[str]:
    return tensor_shapes(path, "download it again")


def _tensor(path: Path, name: str) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is truncated or corrupt ({error}): download it again") from error
    if not tensor.is_floating_point() or tensor.element_size() == 1:
        raise DataError(
            f"{path}: {name} is of type {tensor.dtype}: only unquantised weights can be converted"
        )
    if tensor.numel() and not all(value.isfinite() for value in tensor.aminmax()):
        raise DataError(
            f"{path}: {name} holds a value that is not a finite number: download it again"
        )
    return (
        tensor if tensor.dtype in (torch.float32, torch.float16, torch.bfloat16) else tensor.float()
    )
