"""The Llama layout: Llama, Mistral, Qwen2, Qwen3, SmolLM2, Phi-3, OLMo 2.

Pre-norm with RMSNorm, rotary positions, grouped queries, SwiGLU. Qwen2 has biases of queries, keys
and values; Qwen3 norms of queries and keys; Phi-3 one matrix for queries, keys and values and one
for both widenings; OLMo 2 norms of what sublayers write, and of all heads together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from multistride.convert.checkpoint import Checkpoint
from multistride.convert.names import Entry, Layout, check_head, linear, refuse
from multistride.convert.rotary import halves, rotary
from multistride.model.config import TransformerConfig

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu-tanh",
    "relu": "relu",
}


WINDOWS = {
    **{"mistral": 4096, "qwen2": 4096, "qwen3": 4096, "phi3": None},
    **{"gemma2": 4096, "gemma3_text": 4096},
}
"""The layouts with sliding windows, and the window where config.json does not name one."""

_HEADS = {"gemma": 256, "gemma2": 256, "gemma3_text": 256, "qwen3": 128}
"""The width of heads where config.json names none; others divide the hidden size."""

_KEYS_AND_VALUES = {"mistral": 8}
"""Heads of keys and values where config.json does not say; elsewhere as many as of queries."""

_EPSILONS = {"phi3": 1e-5, "olmo2": 1e-5}
"""The epsilon of norms where config.json names none; elsewhere 1e-6."""


def configure(checkpoint: Checkpoint) -> TransformerConfig:
    """Return our configuration of a Llama-like model.

    Raises `DataError` for an activation or a kind of rotary positions that is not known.
    """
    config, kind = checkpoint.config, checkpoint.model_type
    if config.get("hidden_act", "silu") not in ACTIVATIONS:
        raise refuse(checkpoint, f"the activation {config['hidden_act']}")
    biases = "all" if config.get("attention_bias") and kind != "phi3" else "none"
    head = head_width(checkpoint)
    turned = rotary(checkpoint, head)
    return TransformerConfig.model_validate(
        {
            "vocabulary_size": config["vocab_size"],
            "hidden_size": config["hidden_size"],
            "feedforward_size": config["intermediate_size"],
            "heads": config["num_attention_heads"],
            "key_value_heads": config.get("num_key_value_heads", _KEYS_AND_VALUES.get(kind)),
            "head_size": config.get("head_dim") or _HEADS.get(kind),
            "encoder_layers": 0,
            "decoder_layers": config["num_hidden_layers"],
            "norm": "output" if kind == "olmo2" else "pre",
            "norm_kind": "rms",
            "norm_epsilon": config.get("rms_norm_eps", _EPSILONS.get(kind, 1e-6)),
            "activation": ACTIVATIONS[config.get("hidden_act", "silu")],
            "gated_feedforward": True,
            "feedforward_bias": config.get("mlp_bias", False),
            "attention_bias": "input" if kind == "qwen2" else biases,
            "query_key_norm": kind in ("qwen3", "olmo2"),
            "query_key_norm_over": "all" if kind == "olmo2" else "head",
            "positions": "rotary",
            **turned.fields(head),
            **sliding(checkpoint),
            "max_positions": turned.positions or config["max_position_embeddings"],
            "tie_embeddings": config.get("tie_word_embeddings", False),
            "scale_embeddings": False,
            "start_symbol": False,
            "dropout": config.get("resid_pdrop", 0.0) if kind == "phi3" else 0.0,
            "attention_dropout": config.get("attention_dropout", 0.0),
        }
    )


def head_width(checkpoint: Checkpoint) -> int:
    """Return the width of a head, which config.json may leave out."""
    config = checkpoint.config
    given = config.get("head_dim") or _HEADS.get(checkpoint.model_type)
    return int(given or config["hidden_size"] // config["num_attention_heads"])


def sliding(checkpoint: Checkpoint, pattern: int | None = None) -> dict[str, Any]:
    """Return the fields of `TransformerConfig` for attention in a sliding window.

    `pattern` says that every so many layers see everything, where config.json does not name the
    kind of each layer.
    """
    config, kind = checkpoint.config, checkpoint.model_type
    if kind not in WINDOWS:
        return {}
    window, count = config.get("sliding_window", WINDOWS[kind]), config["num_hidden_layers"]
    if not window or not config.get("use_sliding_window", not kind.startswith("qwen")):
        return {}
    kinds: list[str] | None = config.get("layer_types")
    if kinds is not None:
        layers = [layer for layer, name in enumerate(kinds) if name == "sliding_attention"]
    elif pattern is not None:
        layers = [layer for layer in range(count) if (layer + 1) % pattern]
    else:  # Qwen: the first layers see everything
        first = config.get("max_window_layers", count) if kind.startswith("qwen") else 0
        layers = list(range(first, count))
    if not layers or window >= config["max_position_embeddings"]:
        return {}
    return {
        "attention_window": window,
        "window_layers": None if len(layers) == count else tuple(layers),
    }


def entries(config: TransformerConfig, checkpoint: Checkpoint) -> list[Entry]:
    """Return the name map."""
    check_head(checkpoint, config.tie_embeddings, "lm_head.weight", "model.embed_tokens.weight")
    result = [
        Entry("target_embedding.weight", ("model.embed_tokens.weight",)),
        Entry("decoder_norm.weight", ("model.norm.weight",)),
    ]
    if not config.tie_embeddings:
        result.append(Entry("output.weight", ("lm_head.weight",)))
    for number in range(config.decoder_layers):
        ours, theirs = f"decoder.{number}", f"model.layers.{number}"
        attention, feedforward = f"{theirs}.self_attn", f"{theirs}.mlp"
        result += [
            *norms(config, ours, theirs),
            *_input(config, checkpoint, f"{ours}.attention.input", attention),
            *linear(
                f"{ours}.attention.output",
                f"{attention}.o_proj",
                bias=config.attention_bias == "all",
            ),
            *_widenings(config, checkpoint, f"{ours}.feedforward", feedforward),
            *linear(
                f"{ours}.feedforward.narrow",
                f"{feedforward}.down_proj",
                bias=config.feedforward_bias,
            ),
        ]
        if config.query_key_norm:
            result += [
                Entry(
                    f"{ours}.attention.{part}_norm.weight", (f"{attention}.{part[0]}_norm.weight",)
                )
                for part in ("query", "key")
            ]
    return result


def norms(config: TransformerConfig, ours: str, theirs: str) -> list[Entry]:
    """Return the norms of a layer. Their names say where they stand; ours say around what."""
    attention = {
        "pre": {"norm": "input_layernorm"},
        "output": {"norm": "post_attention_layernorm"},
        "sandwich": {"norm": "input_layernorm", "output_norm": "post_attention_layernorm"},
    }
    feedforward = {
        "pre": {"norm": "post_attention_layernorm"},
        "output": {"norm": "post_feedforward_layernorm"},
        "sandwich": {
            "norm": "pre_feedforward_layernorm",
            "output_norm": "post_feedforward_layernorm",
        },
    }
    return [
        Entry(f"{ours}.{around}.{norm}.weight", (f"{theirs}.{name}.weight",))
        for around, names in (
            ("around_attention", attention[config.norm]),
            ("around_feedforward", feedforward[config.norm]),
        )
        for norm, name in names.items()
    ]


def _input(
    config: TransformerConfig, checkpoint: Checkpoint, ours: str, attention: str
) -> list[Entry]:
    """Return the matrix of queries, keys and values, their pairs where ours are looked for."""
    width = rotary(checkpoint, config.head_width).width
    if f"{attention}.qkv_proj.weight" not in checkpoint.names:
        if width != config.head_width:
            raise refuse(checkpoint, f"rotations of {width} of {config.head_width} coordinates")
        parts = tuple(f"{attention}.{part}_proj" for part in "qkv")
        return linear(ours, *parts, bias=config.attention_bias != "none")
    sizes = [heads * config.head_width for heads in (config.heads, *[config.key_value_count] * 2)]

    def ordered(rows: Tensor) -> Tensor:
        query, key, value = rows.split(sizes)
        turned = halves(query, config.heads, width), halves(key, config.key_value_count, width)
        return rows if width == config.head_width else torch.cat([*turned, value])

    return [Entry(f"{ours}.weight", (f"{attention}.qkv_proj.weight",), ordered)]


def _widenings(
    config: TransformerConfig, checkpoint: Checkpoint, ours: str, theirs: str
) -> list[Entry]:
    """Return the gate and the widening, which may be the two halves of one matrix."""
    if f"{theirs}.gate_up_proj.weight" in checkpoint.names:
        both = (f"{theirs}.gate_up_proj.weight",)
        return [
            Entry(f"{ours}.gate.weight", both, lambda rows: rows.chunk(2)[0].clone()),
            Entry(f"{ours}.widen.weight", both, lambda rows: rows.chunk(2)[1].clone()),
        ]
    bias = config.feedforward_bias
    return [
        *linear(f"{ours}.gate", f"{theirs}.gate_proj", bias=bias),
        *linear(f"{ours}.widen", f"{theirs}.up_proj", bias=bias),
    ]


LAYOUT = Layout(
    configure,
    entries,
    ignored=lambda name: name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq"),
)
