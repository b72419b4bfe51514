"""The layout of BART, mBART, Marian (OPUS-MT) and M2M100 (NLLB): encoder-decoders with one
vocabulary for both sides.

All three begin the decoder's text with a start symbol, so their places are ours. BART and mBART
have learned tables of positions, one a side, which begin with two rows that are never used, and
normalise embeddings; mBART normalises before its sublayers, the others after. Marian has sinusoids
and a bias for every entry of the vocabulary. M2M100 normalises as mBART does; its sinusoids have
other rates than the paper's and begin behind the padding symbol, so they are stored as a table.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from multistride.convert.checkpoint import Checkpoint
from multistride.convert.gpt2 import extended, whole
from multistride.convert.names import Entry, Layout, check_head, linear, refuse
from multistride.model.config import TransformerConfig
from multistride.model.layers import sinusoids

ACTIVATIONS = {
    "swish": "silu",
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu-tanh",
    "relu": "relu",
}
_EMBEDDINGS = (
    "model.shared.weight",
    "model.decoder.embed_tokens.weight",
    "model.encoder.embed_tokens.weight",
    "lm_head.weight",
)
"""Names of the one embedding; a file may hold it under any of them."""

_UNUSED_ROWS = 2
_BIAS = "final_logits_bias"


def configure(checkpoint: Checkpoint) -> TransformerConfig:
    """Return our configuration.

    Raises `DataError` where encoder and decoder differ in more than depth.
    """
    config, kind = checkpoint.config, checkpoint.model_type
    for name in ("attention_heads", "ffn_dim"):
        if config[f"encoder_{name}"] != config[f"decoder_{name}"]:
            raise refuse(checkpoint, f"an encoder and a decoder of different {name}")
    if not config.get("share_encoder_decoder_embeddings", True):
        raise refuse(checkpoint, "a vocabulary for each side")
    if config["activation_function"] not in ACTIVATIONS:
        raise refuse(checkpoint, f"the activation {config['activation_function']}")
    marian, many = kind == "marian", kind == "m2m_100"
    return TransformerConfig.model_validate(
        {
            "vocabulary_size": config["vocab_size"],
            "hidden_size": config["d_model"],
            "feedforward_size": config["decoder_ffn_dim"],
            "heads": config["decoder_attention_heads"],
            "encoder_layers": config["encoder_layers"],
            "decoder_layers": config["decoder_layers"],
            "norm": "pre" if many or kind == "mbart" else "post",
            "activation": ACTIVATIONS[config["activation_function"]],
            "positions": "sinusoidal" if marian else "learned",
            "separate_positions": not (marian or many),
            "embedding_norm": not (marian or many),
            "max_positions": config["max_position_embeddings"],
            "tie_embeddings": config.get("tie_word_embeddings", True),
            "scale_embeddings": config.get("scale_embedding", many),
            "output_bias": _BIAS in checkpoint.names and bool(checkpoint.read(_BIAS).any()),
            "dropout": config.get("dropout", 0.1),
            "attention_dropout": config.get("attention_dropout", 0.1 if many else 0.0),
        }
    )


def entries(config: TransformerConfig, checkpoint: Checkpoint) -> list[Entry]:
    """Return the name map."""
    shared = next((name for name in _EMBEDDINGS if name in checkpoint.names), _EMBEDDINGS[0])
    if config.tie_embeddings:
        for copy in _EMBEDDINGS[1:]:
            check_head(checkpoint, True, copy, shared)
        result = [Entry("target_embedding.weight", (shared,))]
    else:
        # Untied, each side reads its own table where the file has one, and `shared` is read by
        # none.
        own = [f"model.{side}.embed_tokens.weight" for side in ("encoder", "decoder")]
        source, target = (name if name in checkpoint.names else _EMBEDDINGS[0] for name in own)
        check_head(checkpoint, False, "lm_head.weight", source)
        result = [
            Entry("source_embedding.weight", (source,)),
            Entry("target_embedding.weight", (target,)),
            Entry("output.weight", ("lm_head.weight",)),
        ]
    if config.output_bias:
        result.append(Entry("output_bias", (_BIAS,), Tensor.flatten))
    rows = config.max_positions + config.max_group_size
    many = checkpoint.model_type == "m2m_100"
    if many:
        first = checkpoint.config.get("pad_token_id", 1) + 1
        result.append(
            Entry("position.table", (), whole=lambda _: _fairseq(first, rows, config.hidden_size))
        )
    for side, embedded, position in (
        ("encoder", "source", "source_position"),
        ("decoder", "target", "position"),
    ):
        theirs = f"model.{side}"
        if config.positions == "learned" and not many:
            table = f"{theirs}.embed_positions.weight"
            result.append(
                Entry(
                    f"{position}.table",
                    (table,),
                    lambda table: extended(
                        whole(checkpoint, table[_UNUSED_ROWS:], config.max_positions), rows
                    ),
                )
            )
        elif not many:
            _check_sinusoids(checkpoint, f"{theirs}.embed_positions.weight")
        if config.embedding_norm:
            result += linear(f"{embedded}_embedding_norm", f"{theirs}.layernorm_embedding")
        if config.norm == "pre":
            result += linear(f"{side}_norm", f"{theirs}.layer_norm")
    for number in range(config.encoder_layers):
        result += _layer(f"encoder.{number}", f"model.encoder.layers.{number}")
    for number in range(config.decoder_layers):
        ours, theirs = f"decoder.{number}", f"model.decoder.layers.{number}"
        attention = f"{theirs}.encoder_attn"
        result += [
            *_layer(ours, theirs),
            *linear(f"{ours}.around_cross.norm", f"{attention}_layer_norm"),
            *linear(f"{ours}.cross.query", f"{attention}.q_proj"),
            *linear(f"{ours}.cross.key_value", f"{attention}.k_proj", f"{attention}.v_proj"),
            *linear(f"{ours}.cross.output", f"{attention}.out_proj"),
        ]
    return result


def _fairseq(first: int, rows: int, width: int) -> Tensor:
    """Return the sinusoids of fairseq from position `first` on: the slowest is a whole 1/10,000."""
    rates = torch.exp(torch.arange(width // 2).float() * -(math.log(10000) / (width // 2 - 1)))
    angles = torch.arange(first, first + rows).float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _check_sinusoids(checkpoint: Checkpoint, name: str) -> None:
    """Raise `DataError` if a table of sinusoids is stored that is not the one computed here."""
    if name in checkpoint.names:
        table = checkpoint.read(name).float()
        if not torch.allclose(table, sinusoids(*table.shape), atol=1e-3):
            raise refuse(checkpoint, f"sinusoids other than those of the paper in {name}")


def _layer(ours: str, theirs: str) -> list[Entry]:
    """Return what layers of both sides have."""
    attention = f"{theirs}.self_attn"
    return [
        *linear(f"{ours}.around_attention.norm", f"{attention}_layer_norm"),
        *linear(f"{ours}.attention.input", *(f"{attention}.{part}_proj" for part in "qkv")),
        *linear(f"{ours}.attention.output", f"{attention}.out_proj"),
        *linear(f"{ours}.around_feedforward.norm", f"{theirs}.final_layer_norm"),
        *linear(f"{ours}.feedforward.widen", f"{theirs}.fc1"),
        *linear(f"{ours}.feedforward.narrow", f"{theirs}.fc2"),
    ]


def _ignored(name: str) -> bool:
    """Copies of the embedding, a bias of zeros, and sinusoids that were stored."""
    return name in (*_EMBEDDINGS, _BIAS) or name.endswith(
        (".embed_positions.weight", ".embed_positions.weights")
    )


LAYOUT = Layout(configure, entries, _ignored)
