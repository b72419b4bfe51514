"""The layouts of OPT and GPT-Neo: GPT-2's way, with learned positions, under other names.

As for GPT-2, tables of positions are shifted by one, since we count the places of tokens that are
predicted. OPT's begin with two rows, of which the first is never used. GPT-Neo does not divide
attention by the root of the width of a head, and has a sliding window in every other layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from multistride.convert.checkpoint import Checkpoint
from multistride.convert.gpt2 import ACTIVATIONS, extended, whole
from multistride.convert.names import Entry, Layout, check_head, linear, refuse, scaled
from multistride.model.config import TransformerConfig

_PLAIN_OPT = {
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
}
"""What all sizes of OPT but one have; some of its descendants differ."""


def configure_opt(checkpoint: Checkpoint) -> TransformerConfig:
    """Return our configuration of an OPT.

    Raises `DataError` for the choices of single sizes: the 350M model, and Galactica.
    """
    config = checkpoint.config
    width = config["hidden_size"]
    if (config.get("word_embed_proj_dim") or width) != width:
        raise refuse(checkpoint, "embeddings of another width than its layers")
    for name, value in _PLAIN_OPT.items():
        if config.get(name, value) != value:
            raise refuse(checkpoint, f"{name} {config[name]}")
    return _causal(
        checkpoint,
        config.get("activation_function", "relu"),
        {
            "feedforward_size": config["ffn_dim"],
            "heads": config["num_attention_heads"],
            "decoder_layers": config["num_hidden_layers"],
            "dropout": config.get("dropout", 0.1),
        },
    )


def configure_neo(checkpoint: Checkpoint) -> TransformerConfig:
    """Return our configuration of a GPT-Neo."""
    config = checkpoint.config
    kinds = [kind for group, times in config["attention_types"] for kind in group * times]
    window = config.get("window_size", 256)
    layers = tuple(layer for layer, kind in enumerate(kinds) if kind == "local")
    windowed = layers and window < config["max_position_embeddings"]
    return _causal(
        checkpoint,
        config.get("activation_function", "gelu_new"),
        {
            "feedforward_size": config.get("intermediate_size") or 4 * config["hidden_size"],
            "heads": config["num_heads"],
            "decoder_layers": config["num_layers"],
            "norm_epsilon": config.get("layer_norm_epsilon", 1e-5),
            "attention_window": window if windowed else None,
            "window_layers": layers if windowed else None,
            "dropout": config.get("resid_dropout", 0.0),
        },
    )


def _causal(checkpoint: Checkpoint, activation: str, fields: dict[str, Any]) -> TransformerConfig:
    """Return a configuration with what both layouts have in common."""
    config = checkpoint.config
    if activation not in ACTIVATIONS:
        raise refuse(checkpoint, f"the activation {activation}")
    return TransformerConfig.model_validate(
        {
            "vocabulary_size": config["vocab_size"],
            "hidden_size": config["hidden_size"],
            "encoder_layers": 0,
            "activation": ACTIVATIONS[activation],
            "positions": "learned",
            "max_positions": config["max_position_embeddings"],
            "tie_embeddings": config.get("tie_word_embeddings", True),
            "scale_embeddings": False,
            "start_symbol": False,
            "attention_dropout": config.get("attention_dropout", 0.0),
            **fields,
        }
    )


def opt_entries(config: TransformerConfig, checkpoint: Checkpoint) -> list[Entry]:
    """Return the name map of OPT."""
    front = "model.decoder"
    embedding = f"{front}.embed_tokens.weight"
    last = config.max_positions + config.max_group_size
    table = Entry(
        "position.table",
        (f"{front}.embed_positions.weight",),
        lambda table: extended(whole(checkpoint, table[1:], config.max_positions + 1), last),
    )
    result = [table, *_around(config, checkpoint, embedding, f"{front}.final_layer_norm")]
    for number in range(config.decoder_layers):
        ours, theirs = f"decoder.{number}", f"{front}.layers.{number}"
        attention = f"{theirs}.self_attn"
        result += [
            *linear(f"{ours}.around_attention.norm", f"{theirs}.self_attn_layer_norm"),
            *linear(f"{ours}.attention.input", *(f"{attention}.{part}_proj" for part in "qkv")),
            *linear(f"{ours}.attention.output", f"{attention}.out_proj"),
            *linear(f"{ours}.around_feedforward.norm", f"{theirs}.final_layer_norm"),
            *linear(f"{ours}.feedforward.widen", f"{theirs}.fc1"),
            *linear(f"{ours}.feedforward.narrow", f"{theirs}.fc2"),
        ]
    return result


def neo_entries(config: TransformerConfig, checkpoint: Checkpoint) -> list[Entry]:
    """Return the name map of GPT-Neo. It has a bias behind attention, and none in front of it."""
    last = config.max_positions + config.max_group_size
    table = Entry(
        "position.table",
        ("transformer.wpe.weight",),
        lambda table: extended(
            torch.cat([table[:1], whole(checkpoint, table, config.max_positions)]), last
        ),
    )
    result = [table, *_around(config, checkpoint, "transformer.wte.weight", "transformer.ln_f")]
    size = config.hidden_size

    def queries(rows: Tensor) -> Tensor:
        return scaled(rows, size, config.head_width**0.5)

    for number in range(config.decoder_layers):
        ours, theirs = f"decoder.{number}", f"transformer.h.{number}"
        attention = f"{theirs}.attn.attention"
        parts = tuple(f"{attention}.{part}_proj.weight" for part in "qkv")
        result += [
            *linear(f"{ours}.around_attention.norm", f"{theirs}.ln_1"),
            Entry(f"{ours}.attention.input.weight", parts, whole=queries),
            Entry(f"{ours}.attention.input.bias", (), whole=lambda _: torch.zeros(3 * size)),
            *linear(f"{ours}.attention.output", f"{attention}.out_proj"),
            *linear(f"{ours}.around_feedforward.norm", f"{theirs}.ln_2"),
            *linear(f"{ours}.feedforward.widen", f"{theirs}.mlp.c_fc"),
            *linear(f"{ours}.feedforward.narrow", f"{theirs}.mlp.c_proj"),
        ]
    return result


def _around(
    config: TransformerConfig, checkpoint: Checkpoint, embedding: str, norm: str
) -> list[Entry]:
    """Return what stands around the layers: the embedding, the output matrix, the last norm."""
    check_head(checkpoint, config.tie_embeddings, "lm_head.weight", embedding)
    result = [Entry("target_embedding.weight", (embedding,)), *linear("decoder_norm", norm)]
    if not config.tie_embeddings:
        result.append(Entry("output.weight", ("lm_head.weight",)))
    return result


def _ignored(name: str) -> bool:
    """A copy of the embedding, and masks that old files hold."""
    return name == "lm_head.weight" or name.endswith((".attention.bias", ".attention.masked_bias"))


OPT = Layout(configure_opt, opt_entries, _ignored)
NEO = Layout(configure_neo, neo_entries, _ignored)
