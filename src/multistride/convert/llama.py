"""The Llama layout: Llama, Mistral, Qwen2, Qwen3, SmolLM2.

Pre-norm with RMSNorm, rotary positions, grouped queries, SwiGLU; Qwen2 has biases of queries, keys
and values, Qwen3 norms of queries and keys.
"""

from __future__ import annotations

from typing import Any

from multistride.convert.checkpoint import Checkpoint
from multistride.convert.names import Entry, Layout, check_head, linear, refuse
from multistride.model.config import RotaryScaling, TransformerConfig

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu-tanh",
    "relu": "relu",
}


def configure(checkpoint: Checkpoint) -> TransformerConfig:
    """Return our configuration of a Llama-like model.

    Raises `DataError` for sliding windows and unknown rotary scaling.
    """
    config, kind = checkpoint.config, checkpoint.model_type
    if config.get("hidden_act", "silu") not in ACTIVATIONS:
        raise refuse(checkpoint, f"the activation {config['hidden_act']}")
    if config.get("sliding_window") and config.get("use_sliding_window", kind == "mistral"):
        raise refuse(checkpoint, f"attention in a sliding window of {config['sliding_window']}")
    biases = (
        "input" if kind == "qwen2" else "all" if config.get("attention_bias", False) else "none"
    )
    base, scaling = rotary(checkpoint)
    return TransformerConfig.model_validate(
        {
            "vocabulary_size": config["vocab_size"],
            "hidden_size": config["hidden_size"],
            "feedforward_size": config["intermediate_size"],
            "heads": config["num_attention_heads"],
            "key_value_heads": config.get("num_key_value_heads"),
            "head_size": config.get("head_dim"),
            "encoder_layers": 0,
            "decoder_layers": config["num_hidden_layers"],
            "norm": "pre",
            "norm_kind": "rms",
            "norm_epsilon": config.get("rms_norm_eps", 1e-6),
            "activation": ACTIVATIONS[config.get("hidden_act", "silu")],
            "gated_feedforward": True,
            "feedforward_bias": config.get("mlp_bias", False),
            "attention_bias": biases,
            "query_key_norm": kind == "qwen3",
            "positions": "rotary",
            "rotary_base": base,
            "rotary_scaling": scaling,
            "max_positions": config["max_position_embeddings"],
            "tie_embeddings": config.get("tie_word_embeddings", False),
            "scale_embeddings": False,
            "start_symbol": False,
            "dropout": 0.0,
            "attention_dropout": config.get("attention_dropout", 0.0),
        }
    )


def rotary(checkpoint: Checkpoint) -> tuple[float, RotaryScaling | None]:
    """Return the base and scaling of the rotations, from where transformers 4 or 5 keeps them."""
    config = checkpoint.config
    settings: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = settings.get("rope_type", settings.get("type", "default"))
    base = float(settings.get("rope_theta", config.get("rope_theta", 10000.0)))
    if settings.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise refuse(checkpoint, "rotary positions in a part of each head")
    if kind == "default":
        return base, None
    if kind != "llama3":
        raise refuse(checkpoint, f"rotary positions of the kind {kind}")
    return base, RotaryScaling(
        factor=settings["factor"],
        low_frequency=settings["low_freq_factor"],
        high_frequency=settings["high_freq_factor"],
        original_positions=settings["original_max_position_embeddings"],
    )


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
        parts = tuple(f"{attention}.{part}_proj" for part in "qkv")
        result += [
            Entry(f"{ours}.around_attention.norm.weight", (f"{theirs}.input_layernorm.weight",)),
            *linear(f"{ours}.attention.input", *parts, bias=config.attention_bias != "none"),
            *linear(
                f"{ours}.attention.output",
                f"{attention}.o_proj",
                bias=config.attention_bias == "all",
            ),
            Entry(
                f"{ours}.around_feedforward.norm.weight",
                (f"{theirs}.post_attention_layernorm.weight",),
            ),
            *linear(
                f"{ours}.feedforward.gate", f"{feedforward}.gate_proj", bias=config.feedforward_bias
            ),
            *linear(
                f"{ours}.feedforward.widen", f"{feedforward}.up_proj", bias=config.feedforward_bias
            ),
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


LAYOUT = Layout(
    configure,
    entries,
    ignored=lambda name: name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq"),
)
