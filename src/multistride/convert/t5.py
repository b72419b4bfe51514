"""The T5 layout: T5, T5 1.1, Flan-T5, mT5.

Pre-norm with RMSNorm and no bias anywhere; positions are numbers added to attention for every
distance, one table a side, which the first layer holds and all layers use. T5 does not divide
attention by the root of the width of a head, so queries are multiplied by it here. T5 1.1 has a
gate in the feed-forward layers and an output matrix of its own; without one, T5 divides the last
states by the root of the width, which becomes a part of the last norm.
"""

from __future__ import annotations

import torch

from multistride.convert.checkpoint import Checkpoint
from multistride.convert.names import Change, Entry, Layout, linear, refuse, scaled
from multistride.model.config import TransformerConfig

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu-tanh",
    "silu": "silu",
    "swish": "silu",
}
_SHARED, _HEAD = "shared.weight", "lm_head.weight"
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_BIAS = "{}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def configure(checkpoint: Checkpoint) -> TransformerConfig:
    """Return our configuration of a T5. Raises `DataError` for an unknown activation."""
    config = checkpoint.config
    default = "gated-gelu" if checkpoint.model_type == "mt5" else "relu"
    kind = str(config.get("feed_forward_proj", default))
    gated, name = kind.startswith("gated-"), kind.removeprefix("gated-")
    if kind == "gated-gelu":
        name = "gelu_new"  # as transformers reads it
    if name not in ACTIVATIONS:
        raise refuse(checkpoint, f"the activation {name}")
    dropout = config.get("dropout_rate", 0.1)
    return TransformerConfig.model_validate(
        {
            "vocabulary_size": config["vocab_size"],
            "hidden_size": config["d_model"],
            "feedforward_size": config["d_ff"],
            "heads": config["num_heads"],
            "head_size": config["d_kv"],
            "encoder_layers": config["num_layers"],
            "decoder_layers": config.get("num_decoder_layers") or config["num_layers"],
            "norm": "pre",
            "norm_kind": "rms",
            "norm_epsilon": config.get("layer_norm_epsilon", 1e-6),
            "activation": ACTIVATIONS[name],
            "gated_feedforward": gated,
            "feedforward_bias": False,
            "attention_bias": "none",
            "positions": "relative",
            "relative_buckets": config.get("relative_attention_num_buckets", 32),
            "relative_furthest": config.get("relative_attention_max_distance", 128),
            "max_positions": config.get("n_positions") or 512,
            "tie_embeddings": _is_tied(checkpoint),
            "scale_embeddings": False,
            "dropout": dropout,
            "attention_dropout": dropout,
        }
    )


def _is_tied(checkpoint: Checkpoint) -> bool:
    """Return whether output and embedding are one, which files of T5 say in several ways."""
    if _HEAD not in checkpoint.names:
        return True
    return torch.equal(checkpoint.read(_HEAD), checkpoint.read(_embedding(checkpoint)))


def _embedding(checkpoint: Checkpoint) -> str:
    return next((name for name in (_SHARED, *_COPIES) if name in checkpoint.names), _SHARED)


def _divides(checkpoint: Checkpoint) -> bool:
    """Return whether the last states are divided by the root of the width: never in mT5."""
    config = checkpoint.config
    if checkpoint.model_type != "t5":
        return False
    tied = config.get("tie_word_embeddings", True) is not False
    return bool(config.get("scale_decoder_outputs", tied))


def entries(config: TransformerConfig, checkpoint: Checkpoint) -> list[Entry]:
    """Return the name map."""
    embedding = _embedding(checkpoint)
    last = config.hidden_size**-0.5 if _divides(checkpoint) else 1.0
    result = [
        Entry("target_embedding.weight", (embedding,)),
        Entry("position.bias.table", (_BIAS.format("decoder"),)),
        Entry("source_position.table", (_BIAS.format("encoder"),)),
        Entry("encoder_norm.weight", ("encoder.final_layer_norm.weight",)),
        Entry(
            "decoder_norm.weight",
            ("decoder.final_layer_norm.weight",),
            lambda weight: weight if last == 1 else weight.float() * last,
        ),
    ]
    if not config.tie_embeddings:
        result += [
            Entry("source_embedding.weight", (embedding,)),
            Entry("output.weight", (_HEAD,)),
        ]
    for number in range(config.encoder_layers):
        result += _layer(config, f"encoder.{number}", f"encoder.block.{number}.layer", 1)
    for number in range(config.decoder_layers):
        ours, theirs = f"decoder.{number}", f"decoder.block.{number}.layer"
        cross = f"{theirs}.1.EncDecAttention"
        result += [
            *_layer(config, ours, theirs, 2),
            Entry(f"{ours}.around_cross.norm.weight", (f"{theirs}.1.layer_norm.weight",)),
            Entry(f"{ours}.cross.query.weight", (f"{cross}.q.weight",), _queries(config)),
            *linear(f"{ours}.cross.key_value", f"{cross}.k", f"{cross}.v", bias=False),
            *linear(f"{ours}.cross.output", f"{cross}.o", bias=False),
        ]
    return result


def _queries(config: TransformerConfig, count: int | None = None) -> Change:
    """Return what multiplies the first `count` rows by the root of the width of a head."""
    return lambda rows: scaled(rows, count or len(rows), config.head_width**0.5)


def _layer(config: TransformerConfig, ours: str, theirs: str, last: int) -> list[Entry]:
    """Return what layers of both sides have; their feed-forward layer is number `last`."""
    attention, dense = f"{theirs}.0.SelfAttention", f"{theirs}.{last}.DenseReluDense"
    widen = "wi_1" if config.gated_feedforward else "wi"
    parts = tuple(f"{attention}.{part}.weight" for part in "qkv")
    queries = config.heads * config.head_width
    gate = linear(f"{ours}.feedforward.gate", f"{dense}.wi_0", bias=False)
    return [
        Entry(f"{ours}.around_attention.norm.weight", (f"{theirs}.0.layer_norm.weight",)),
        Entry(f"{ours}.attention.input.weight", parts, whole=_queries(config, queries)),
        *linear(f"{ours}.attention.output", f"{attention}.o", bias=False),
        Entry(f"{ours}.around_feedforward.norm.weight", (f"{theirs}.{last}.layer_norm.weight",)),
        *(gate if config.gated_feedforward else []),
        *linear(f"{ours}.feedforward.widen", f"{dense}.{widen}", bias=False),
        *linear(f"{ours}.feedforward.narrow", f"{dense}.wo", bias=False),
    ]


def _ignored(name: str) -> bool:
    """Copies of the embedding, and a bias that old files hold where nothing reads it."""
    return name in (_HEAD, _SHARED, *_COPIES) or name == (
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    )


LAYOUT = Layout(configure, entries, _ignored)
