"""The Gemma layouts: Gemma, Gemma 2 and the text-only models of Gemma 3.

They are Llama's tensors under Llama's names, with other arithmetic: embeddings multiplied by the
root of the width, norms that multiply by one more than their weight, GELU in the gate, and queries
scaled by a number of config.json. Gemma 2 normalises what sublayers write too, caps logits softly
and has a sliding window in every other layer; Gemma 3 has norms of queries and keys for caps, five
layers with a window for each without, and rotations of their own there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from multistride.convert import llama
from multistride.convert.checkpoint import Checkpoint
from multistride.convert.names import Entry, Layout, refuse, scaled
from multistride.convert.rotary import rotary
from multistride.errors import DataError
from multistride.model.config import TransformerConfig

_WINDOW_BASE = 10_000.0
"""The rotary base of Gemma 3 in windows, where config.json names none."""


def configure(checkpoint: Checkpoint) -> TransformerConfig:
    """Return our configuration of a Gemma.

    Raises `DataError` for what only some of them have.
    """
    config, kind = checkpoint.config, checkpoint.model_type
    name = "hidden_act" if kind == "gemma" else "hidden_activation"
    activation = config.get(name) or "gelu_pytorch_tanh"
    if activation == "gelu" and kind == "gemma":  # of older files, which mean the approximation
        activation = "gelu_pytorch_tanh"
    if activation not in llama.ACTIVATIONS:
        raise refuse(checkpoint, f"the activation {activation}")
    if config.get("use_bidirectional_attention"):
        raise refuse(checkpoint, "attention in both directions")
    head = llama.head_width(checkpoint)
    turned = rotary(checkpoint, head, "full_attention")
    third = kind == "gemma3_text"
    return TransformerConfig.model_validate(
        {
            "vocabulary_size": config["vocab_size"],
            "hidden_size": config["hidden_size"],
            "feedforward_size": config["intermediate_size"],
            "heads": config["num_attention_heads"],
            "key_value_heads": config["num_key_value_heads"],
            "head_size": head,
            "encoder_layers": 0,
            "decoder_layers": config["num_hidden_layers"],
            "norm": "pre" if kind == "gemma" else "sandwich",
            "norm_kind": "rms",
            "norm_epsilon": config.get("rms_norm_eps", 1e-6),
            "activation": llama.ACTIVATIONS[activation],
            "gated_feedforward": True,
            "feedforward_bias": False,
            "attention_bias": "all" if config.get("attention_bias") else "none",
            "query_key_norm": third,
            "positions": "rotary",
            **turned.fields(head),
            **_windows(checkpoint),
            "attention_cap": config.get("attn_logit_softcapping", 50.0)
            if kind == "gemma2"
            else None,
            "output_cap": config.get("final_logit_softcapping", 30.0 if kind == "gemma2" else None),
            "max_positions": config["max_position_embeddings"],
            "tie_embeddings": config.get("tie_word_embeddings", True),
            "start_symbol": False,
            "dropout": 0.0,
            "attention_dropout": config.get("attention_dropout", 0.0),
        }
    )


def _windows(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields for sliding windows, and for the rotations in them."""
    config, kind = checkpoint.config, checkpoint.model_type
    if kind != "gemma3_text":
        return llama.sliding(checkpoint, 2) if kind == "gemma2" else {}
    # The layers with a window rotate in their own way, even if no text is longer than it.
    window = config.get("sliding_window", llama.WINDOWS[kind])
    within = {**config, "max_position_embeddings": (window or 0) + 1}
    parameters = config.get("rope_parameters") or {}
    said = parameters.get("sliding_attention") or {}
    if said.get("rope_type", "default") != "default":
        raise refuse(checkpoint, f"rotary positions of the kind {said['rope_type']} in windows")
    pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
    fields = llama.sliding(Checkpoint(**{**vars(checkpoint), "config": within}), pattern)
    base = said.get("rope_theta", config.get("rope_local_base_freq"))
    return {**fields, "window_rotary_base": base or _WINDOW_BASE} if fields else {}


def entries(config: TransformerConfig, checkpoint: Checkpoint) -> list[Entry]:
    """Return the name map: Llama's, with norms and queries as our modules compute them."""
    first = checkpoint.model_type == "gemma"
    scalar = config.head_width if first else checkpoint.config.get("query_pre_attn_scalar", 256)
    if not isinstance(scalar, int | float) or scalar <= 0:
        raise DataError(
            f"{checkpoint.name}: query_pre_attn_scalar is {scalar!r} in config.json, which takes a "
            "number above 0: download it again"
        )
    factor = (config.head_width / scalar) ** 0.5  # we divide by the root of the width of a head
    queries = config.heads * config.head_width
    result = []
    for entry in llama.entries(config, checkpoint):
        if entry.ours.endswith("norm.weight"):
            of_queries = factor if entry.ours.endswith("query_norm.weight") else 1.0
            entry = entry._replace(change=partial(_one_more, of_queries))
        elif ".attention.input." in entry.ours and factor != 1 and not config.query_key_norm:
            entry = entry._replace(whole=lambda rows: scaled(rows, queries, factor))
        result.append(entry)
    return result


def _one_more(by: float, weight: Tensor) -> Tensor:
    """Return what a norm of Gemma multiplies by, in float32: rounded, it would not be the same."""
    return (weight.float() + 1) * by


LAYOUT = Layout(configure, entries, llama.LAYOUT.ignored)
