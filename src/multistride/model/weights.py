"""Model directories: writing, reading and checking them. Never pickle.

A model directory holds `config.json`, `model.safetensors`, `tokenizer.json`,
`tokenizer_config.json`, `generation_config.json`, `README.md` (the model card) and
`provenance.json`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from multistride.data.vocab import Vocabulary
from multistride.data.vocabulary_files import load_vocabulary, save_vocabulary
from multistride.errors import DataError, UserError
from multistride.files import replacing_directory
from multistride.model.config import TransformerConfig
from multistride.model.directory import CONFIG, INT8_MANIFEST, PROVENANCE, WEIGHTS, load_config
from multistride.model.transformer import Transformer
from multistride.untrusted import tensor_shapes
from multistride.version import __version__

LARGE = 100_000_000
"""Size of weights in bytes from which a model is created without initialisation."""

MOST_COMPUTED = 1 << 26
"""Numbers in the table of positions that a model without learned ones may compute."""

EMBEDDINGS = ("source_embedding.weight", "target_embedding.weight")
"""Tables of token vectors."""

MODELING = Path("modeling_multistride.py")
"""What `auto_map` in config.json names; multistride itself never reads it."""

_MODELING_TEXT = '''\
"""Open this directory with transformers: from_pretrained(..., trust_remote_code=True).

The code is that of the package multistride, which must be installed; nothing else is here.
"""

try:
    from multistride.hf import MultistrideConfig, MultistrideForCausalLM, MultistrideForSeq2SeqLM
except ImportError as error:
    raise ImportError(
        "this is a multistride model: pip install 'multistride[hf]', then open it again "
        "(with `import multistride.hf` first, trust_remote_code is not needed)"
    ) from error

__all__ = ["MultistrideConfig", "MultistrideForCausalLM", "MultistrideForSeq2SeqLM"]
'''


def save_model(
    directory: Path | str,
    model: Transformer,
    vocabulary: Vocabulary,
    provenance: dict[str, Any],
    card: str,
    beside: Callable[[Path], None] = lambda place: None,
) -> None:
    """Write a complete model directory, atomically; `files.replacing_directory` says over what.

    `card` is the text of its README.md; `beside` may write more files into the directory before it
    is moved.
    """
    config = model.config
    with replacing_directory(directory) as place:
        _write(place / CONFIG, config_file(config))
        write_modeling(place, config)
        try:
            save_file(
                {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
                place / WEIGHTS,
            )
        except SafetensorError as error:
            raise UserError(
                f"could not write {directory}: {error}; nothing was changed there: free space"
            ) from error
        save_vocabulary(vocabulary, place, "translator" if config.encoder_layers else "causal")
        generation = {
            "pad_token_id": config.pad_token,
            "bos_token_id": config.start_token,
            "eos_token_id": list(config.ends) if config.further_ends else config.end_token,
            "decoder_start_token_id": config.start_token,
            "max_length": config.max_positions,
            "group_size": max(config.group_sizes),
        }
        if config.first_token is not None:
            generation["forced_bos_token_id"] = config.first_token
        _write(place / "generation_config.json", generation)
        _write(place / PROVENANCE, {"multistride": __version__, **provenance})
        (place / "README.md").write_text(card, encoding="utf-8")
        beside(place)


def config_file(config: TransformerConfig) -> dict[str, Any]:
    """Return what `config.json` says of a model.

    `architectures` and `auto_map` are for transformers: with them `from_pretrained(...,
    trust_remote_code=True)` opens the directory where this package is installed.
    """
    classes = {}
    if config.decoder_layers:
        kind = "Seq2SeqLM" if config.encoder_layers else "CausalLM"
        classes = {
            "architectures": [f"MultistrideFor{kind}"],
            "auto_map": {
                "AutoConfig": f"{MODELING.stem}.MultistrideConfig",
                f"AutoModelFor{kind}": f"{MODELING.stem}.MultistrideFor{kind}",
            },
        }
    return {"model_type": "multistride", **classes, **config.stored()}


def write_modeling(directory: Path, config: TransformerConfig) -> None:
    """Write the few lines of Python that `auto_map` in `config.json` names."""
    if config.decoder_layers:
        (directory / MODELING).write_text(_MODELING_TEXT, encoding="utf-8", newline="\n")


def load_model(
    directory: Path | str, device: torch.device | str = "cpu"
) -> tuple[Transformer, Vocabulary]:
    """Return the model (float32, in evaluation mode) and its vocabulary.

    Raises `DataError` if anything is missing or does not fit.
    """
    config = load_config(directory)
    path = Path(directory) / WEIGHTS
    if not path.is_file():
        if (path.parent / INT8_MANIFEST).is_file():
            raise DataError(
                f"{directory} is an int8 export, which holds no float32 weights: give the model "
                "directory it was exported from, or --engine int8 to a verb that has it"
            )
        if (path.parent / f"{WEIGHTS}.index.json").is_file():
            raise DataError(
                f"the weights in {directory} are in several files, and one is read: "
                f'save it with save_pretrained(..., max_shard_size="1TB")'
            )
        raise DataError(f"{directory} has no {WEIGHTS}: copy the model again")
    shapes = tensor_shapes(path, "copy the model again")
    _check_sizes(path, config, shapes)
    model = _unfilled(config, path.stat().st_size)
    _check_shapes(path, model, shapes)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        if os.fsencode(path) != str(path).encode("utf-8", "replace"):
            raise DataError(
                f"{path} has bytes in its name that are no UTF-8, and weights are not read from "
                "such a path: rename its directory"
            ) from error
        raise DataError(
            f"{path} is truncated or corrupt ({error}): copy the model again"
        ) from error
    _check_values(path, tensors)
    for name, tensor in model.state_dict().items():
        if tensors[name].is_floating_point() != tensor.is_floating_point():
            raise DataError(
                f"{path} holds {name} as {tensors[name].dtype}, and it is {tensor.dtype} here: "
                "copy the model again"
            )
    model.load_state_dict(
        {name: tensor.to(_loaded_type(tensor), copy=True) for name, tensor in tensors.items()},
        assign=True,
    )
    vocabulary = load_vocabulary(directory)
    if len(vocabulary) != config.vocabulary_size:
        raise DataError(
            f"the tokenizer in {directory} has {len(vocabulary)} entries, the model "
            f"{config.vocabulary_size}: use the files of one model, or save both after "
            "model.resize_token_embeddings(len(tokenizer))"
        )
    return model.to(device).eval(), vocabulary


def _loaded_type(tensor: torch.Tensor) -> torch.dtype:
    """Return the type a tensor is loaded as: float32, or its own if it holds integers."""
    return torch.float32 if tensor.is_floating_point() else tensor.dtype


def _unfilled(config: TransformerConfig, size: int) -> Transformer:
    """Return a model whose weights are about to be loaded from a file of `size` bytes.

    The device "meta" avoids initialisation, which takes long for large models; for small ones
    importing PyTorch's compiler, which it needs, would take longer.
    """
    if size < LARGE:
        return Transformer(config)
    with torch.device("meta"):
        return Transformer(config)


def _check_sizes(path: Path, config: TransformerConfig, shapes: dict[str, tuple[int, ...]]) -> None:
    """Refuse a configuration that is far from the weights before a model of its size is made."""
    _expect(path, "target_embedding.weight", shapes, (config.vocabulary_size, config.hidden_size))
    for stack, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        numbers = {name.split(".")[1] for name in shapes if name.startswith(f"{stack}.")}
        if layers > 2 * len(numbers) + 8:
            raise DataError(
                f"{path} does not fit {CONFIG}: it has {len(numbers)} layers of the {stack}, "
                f"{stack}_layers is {layers}: use the two files of one model"
            )
    roles = {name: getattr(config, name) for name in ("pad_token", "start_token", "end_token")}
    if config.lookahead:
        roles["mask_token"] = config.mask_token
    for name, token in roles.items():
        if token >= config.vocabulary_size:
            raise DataError(
                f"{path.with_name(CONFIG)}: {name} is {token}, and the vocabulary has "
                f"{config.vocabulary_size} entries, from 0 on: copy the model again"
            )
    weights = sum(map(math.prod, shapes.values()))
    sizes = {field: width * config.hidden_size for field, width in _widths(config).items()}
    sizes["markov_rank"] = config.markov_rank * config.vocabulary_size
    for field, size in sizes.items():
        if size > weights:
            raise DataError(
                f"{path} does not fit {CONFIG}: {field} makes a matrix of more than all its "
                f"{weights:,} weights: use the two files of one model"
            )
    computed = config.max_positions * config.hidden_size
    if config.positions == "sinusoidal" and computed > max(MOST_COMPUTED, weights):
        raise DataError(
            f"{path.with_name(CONFIG)}: max_positions is {config.max_positions:,}, which needs "
            f"{computed * 4 / 1e9:,.0f} GB: copy the model again"
        )


def _widths(config: TransformerConfig) -> dict[str, int]:
    """Return the sizes that make a matrix with the hidden size, by the field that gives them."""
    return {
        "feedforward_size": config.feedforward_size if config.decoder_layers else 1,
        "heads": config.heads * config.head_width,
        "key_value_heads": config.key_value_count * config.head_width,
        "max_group_size": config.max_group_size if config.decoder_layers else 1,
        "max_positions": config.max_positions if config.positions == "learned" else 1,
        "relative_buckets": config.relative_buckets if config.positions == "relative" else 1,
        "adapter.rank": config.adapter.rank if config.adapter else 1,
    }


def _check_shapes(path: Path, model: Transformer, shapes: dict[str, tuple[int, ...]]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() | shapes.keys()):
        _expect(path, name, shapes, expected.get(name, "nothing"))


def _expect(
    path: Path, name: str, shapes: dict[str, tuple[int, ...]], expected: tuple[int, ...] | str
) -> None:
    found = shapes.get(name, "missing" if expected != "nothing" else "nothing")
    if found != expected:
        raise DataError(
            f"{path} does not fit {CONFIG}: {name} is {found}, expected {expected}: "
            "use the two files of one model"
        )


def _check_values(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Refuse weights with a NaN or an infinity, and embeddings of zeros.

    Both make every output empty. Zeros are what a download leaves that was cut off after its place
    on the disk had been reserved; other matrices may begin as zeros.
    """
    for name, tensor in tensors.items():
        if tensor.numel() and tensor.is_floating_point():
            lowest, highest = tensor.aminmax()
            if not (lowest.isfinite() and highest.isfinite()):
                raise DataError(
                    f"{path} is damaged: {name} holds a value that is not a finite number: "
                    "copy the model again, or use an earlier checkpoint"
                )
            if lowest == highest == 0 and name in EMBEDDINGS:
                raise DataError(
                    f"{path} is damaged: {name} holds only zeros: copy the model again, or use an "
                    "earlier checkpoint"
                )


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
