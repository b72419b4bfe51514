"""GGUF files (llama.cpp) of the Llama layout, read through the package `gguf`: tensors made float32
again.

Two things differ from the checkpoint that such a file was made of: the names; and, in files of the
architecture `llama`, the order of the rows of queries and keys. It suits rotations of neighbouring
coordinates, where transformers (and we) rotate the two halves of a head. The byte-level tokenizer
is made anew from its pieces and merges.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from multistride.convert.checkpoint import Checkpoint
from multistride.convert.rotary import DIVISORS
from multistride.errors import DataError, MissingExtraError
from multistride.files import sha256

try:
    import gguf
except ImportError:  # read_gguf says so
    gguf = None

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_CONTROL, _USER_DEFINED = 3, 4
"""Types of tokens in `tokenizer.ggml.token_type`."""

_DIVISORS = "rope_freqs.weight"
"""What Llama 3's scaling divides each rotary frequency by."""

_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def read_gguf(path: Path) -> Checkpoint:
    """Return the checkpoint in a GGUF file.

    Raises `MissingExtraError` without the package and `DataError` for a file that is broken, or of
    another layout.
    """
    if gguf is None:
        raise MissingExtraError(f"{path} is a GGUF file, which needs pip install 'multistride[hf]'")
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: found.contents() for name, found in reader.fields.items()}
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise DataError(
            f"{path} is truncated or no GGUF file ({error}): download it again"
        ) from error
    architecture = fields.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise DataError(
            f"{path} is of the architecture {architecture}; GGUF files are converted for "
            f"{', '.join(ARCHITECTURES)}: "
            "convert the checkpoint it was made of"
        )
    divisors = [tensor for tensor in reader.tensors if tensor.name == _DIVISORS]
    stored = {
        _their_name(tensor.name, path): tensor
        for tensor in reader.tensors
        if tensor.name != _DIVISORS
    }
    try:
        config = _config(fields, architecture, tied="lm_head.weight" not in stored)
        tokenizer, tokenizer_config = _tokenizer(fields, path)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:100]
        raise DataError(
            f"{path} lacks a field or has a wrong one ({reason}): download it again"
        ) from error
    if divisors:
        said = {"rope_type": DIVISORS, DIVISORS: divisors[0].data.astype("float32").tolist()}
        config["rope_scaling"] = said

    def read(name: str) -> Tensor:
        tensor = torch.from_numpy(
            gguf.quants.dequantize(stored[name].data, stored[name].tensor_type).copy()
        )
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        part = name.split(".")[-2]
        return _halves(tensor, heads[part]) if architecture == "llama" and part in heads else tensor

    return Checkpoint(
        name=str(path),
        config=config,
        names=frozenset(stored),
        read=read,
        tokenizer=tokenizer,
        tokenizer_config=tokenizer_config,
        hashes={path.name: sha256(path)},
    )


def _their_name(name: str, path: Path) -> str:
    """Return the name that transformers has for a tensor."""
    found = _LAYER.fullmatch(name)
    if found and found[2] in _LAYER_NAMES:
        return f"model.layers.{found[1]}.{_LAYER_NAMES[found[2]]}.{found[3]}"
    if name not in _NAMES:
        raise DataError(
            f"{path} has the tensor {name}, for which there is no place: convert what it was made "
            "of"
        )
    return _NAMES[name]


def _halves(rows: Tensor, heads: int) -> Tensor:
    """Rows in which neighbours were a coordinate pair, with the first of all pairs before the
    second of all pairs.
    """
    pairs = rows.unflatten(0, (heads, -1, 2))
    halves: Tensor = pairs.transpose(1, 2).flatten(0, 2)
    return halves


def _config(fields: dict[str, Any], architecture: str, tied: bool) -> dict[str, Any]:
    """Return what config.json would say."""

    def value(name: str, otherwise: Any = None) -> Any:
        return fields.get(f"{architecture}.{name}", otherwise)

    heads = value("attention.head_count")
    config = {
        "model_type": architecture,
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": value("embedding_length"),
        "intermediate_size": value("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": value("attention.head_count_kv", heads),
        "num_hidden_layers": value("block_count"),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon", 1e-6),
        "rope_theta": value("rope.freq_base", 10000.0),
        "max_position_embeddings": value("context_length"),
        "head_dim": value("attention.key_length"),
        "tie_word_embeddings": tied,
    }
    if "general.license" in fields:
        config["license"] = fields["general.license"]
    if value("rope.scaling.type", "none") != "none":
        said = {
            "rope_type": value("rope.scaling.type"),
            "factor": value("rope.scaling.factor"),
            "original_max_position_embeddings": value("rope.scaling.original_context_length"),
        }
        config["rope_scaling"] = {name: given for name, given in said.items() if given is not None}
    return config


def _tokenizer(fields: dict[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    """tokenizer.json and tokenizer_config.json, of a byte-level tokenizer."""
    kind, cutting = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2":
        raise DataError(
            f"{path} has a tokenizer of the kind {kind}, only byte-level ones (gpt2) are made anew "
            "here: "
            "convert the checkpoint it was made of"
        )
    pieces: list[str] = fields["tokenizer.ggml.tokens"]
    types = fields.get("tokenizer.ggml.token_type", [])
    special = {piece: True for piece, of in zip(pieces, types, strict=False) if of == _CONTROL}
    special.update(
        {piece: False for piece, of in zip(pieces, types, strict=False) if of == _USER_DEFINED}
    )
    merges = [(left, right) for left, right in map(str.split, fields["tokenizer.ggml.merges"])]
    settings: dict[str, Any] = {}
    for role, name in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        token = fields.get(f"tokenizer.ggml.{name}_token_id")
        if token is not None:
            settings[f"{role}_token"] = pieces[token]
    if "tokenizer.chat_template" in fields:
        settings["chat_template"] = fields["tokenizer.chat_template"]
    first = settings["bos_token"] if fields.get("tokenizer.ggml.add_bos_token") else None
    return byte_level_tokenizer(pieces, merges, special, cutting, first, str(path)), settings


_WORDS_AND_NUMBERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| "
    r"?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _by_expression(numbers: str) -> Any:
    expression = Regex(_WORDS_AND_NUMBERS.format(numbers=numbers))
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(expression, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _digits_apart() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


CUTTING = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    "smollm": _digits_apart,
    "llama-bpe": lambda: _by_expression(r"\p{N}{1,3}"),
    "qwen2": lambda: _by_expression(r"\p{N}"),
}
"""How a text is cut into words before they are merged, by the name llama.cpp has for it
(`tokenizer.ggml.pre`)."""


def byte_level_tokenizer(
    pieces: list[str],
    merges: list[tuple[str, str]],
    special: dict[str, bool],
    cutting: str,
    first: str | None,
    name: str,
) -> str:
    """Return the text of a tokenizer.json.

    `special` says of every added piece whether it is special, `first` is put before every text.
    Raises `DataError` for a way of cutting words that is not known.
    """
    if cutting not in CUTTING:
        raise DataError(
            f"{name} cuts words as {cutting} does; known are {', '.join(CUTTING)}: convert what it "
            "was made of"
        )
    tokenizer = Tokenizer(models.BPE({piece: token for token, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = CUTTING[cutting]()
    tokenizer.decoder = decoders.ByteLevel()
    for piece, is_special in special.items():
        added = [AddedToken(piece, normalized=False, special=is_special)]
        (tokenizer.add_special_tokens if is_special else tokenizer.add_tokens)(added)
    if first is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, tokenizer.token_to_id(first))]
        )
    return str(tokenizer.to_str())
