"""The layouts of GPT-NeoX (Pythia) and of Phi-1, 1.5 and 2: attention and feed-forward layer read
the same states side by side, and a part of each head is rotated.

GPT-NeoX keeps queries, keys and values head by head in one matrix; some of its models have the two
sublayers one after the other. Phi has one norm for both sublayers, and a bias for every entry of
the vocabulary.
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
    "gelu": "gelu",
    "gelu_new": "gelu-tanh",
    "gelu_fast": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "relu": "relu",
}


def configure(checkpoint: Checkpoint) -> TransformerConfig:
    """Return our configuration.

    Raises `DataError` for an unknown activation or kind of rotary positions, and for norms of
    queries and keys.
    """
    config = checkpoint.config
    if config["hidden_act"] not in ACTIVATIONS:
        raise refuse(checkpoint, f"the activation {config['hidden_act']}")
    if config.get("qk_layernorm"):
        raise refuse(checkpoint, "LayerNorm of queries and keys (qk_layernorm)")
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    turned = rotary(checkpoint, head)
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
            "parallel_sublayers": config.get("use_parallel_residual", True),
            "norm_epsilon": config.get("layer_norm_eps", 1e-5),
            "activation": ACTIVATIONS[config["hidden_act"]],
            "attention_bias": "all" if config.get("attention_bias", True) else "none",
            "positions": "rotary",
            **turned.fields(head),
            "max_positions": turned.positions or config["max_position_embeddings"],
            "tie_embeddings": config.get("tie_word_embeddings", False),
            "output_bias": "lm_head.bias" in checkpoint.names,
            "scale_embeddings": False,
            "start_symbol": False,
            "dropout": config.get("hidden_dropout", config.get("resid_pdrop", 0.0)),
            "attention_dropout": config.get("attention_dropout", 0.0),
        }
    )


def neox_entries(config: TransformerConfig, checkpoint: Checkpoint) -> list[Entry]:
    """Return the name map of GPT-NeoX. Older files call the output matrix `embed_out`."""
    embedding, head = "gpt_neox.embed_in.weight", "lm_head.weight"
    if head not in checkpoint.names and "embed_out.weight" in checkpoint.names:
        head = "embed_out.weight"
    result = _around(config, checkpoint, (embedding, head, "gpt_neox.final_layer_norm"))
    width = rotary(checkpoint, config.head_width).width

    def by_kind(rows: Tensor) -> Tensor:
        apart = rows.unflatten(0, (config.heads, 3, config.head_width))
        query, key, value = (part.flatten(0, 1) for part in apart.unbind(1))
        turned = (halves(part, config.heads, width) for part in (query, key))
        return torch.cat([*turned, value])

    bias = config.attention_bias == "all"
    for number in range(config.decoder_layers):
        ours, theirs = f"decoder.{number}", f"gpt_neox.layers.{number}"
        attention = f"{theirs}.attention"
        result += [
            *linear(f"{ours}.around_attention.norm", f"{theirs}.input_layernorm"),
            *linear(
                f"{ours}.attention.input", f"{attention}.query_key_value", bias=bias, change=by_kind
            ),
            *linear(f"{ours}.attention.output", f"{attention}.dense", bias=bias),
            *linear(f"{ours}.around_feedforward.norm", f"{theirs}.post_attention_layernorm"),
            *linear(f"{ours}.feedforward.widen", f"{theirs}.mlp.dense_h_to_4h"),
            *linear(f"{ours}.feedforward.narrow", f"{theirs}.mlp.dense_4h_to_h"),
        ]
    return result


def phi_entries(config: TransformerConfig, checkpoint: Checkpoint) -> list[Entry]:
    """Return the name map of Phi."""
    names = ("model.embed_tokens.weight", "lm_head.weight", "model.final_layernorm")
    result = _around(config, checkpoint, names)
    width = rotary(checkpoint, config.head_width).width
    sizes = [heads * config.head_width for heads in (config.heads, *[config.key_value_count] * 2)]

    def ordered(rows: Tensor) -> Tensor:
        query, key, value = rows.split(sizes)
        turned = halves(query, config.heads, width), halves(key, config.key_value_count, width)
        return torch.cat([*turned, value])

    for number in range(config.decoder_layers):
        ours, theirs = f"decoder.{number}", f"model.layers.{number}"
        attention = f"{theirs}.self_attn"
        parts = linear(f"{ours}.attention.input", *(f"{attention}.{part}_proj" for part in "qkv"))
        result += [
            *linear(f"{ours}.around_attention.norm", f"{theirs}.input_layernorm"),
            *(entry._replace(whole=ordered) for entry in parts),
            *linear(f"{ours}.attention.output", f"{attention}.dense"),
            *linear(f"{ours}.around_feedforward.norm", f"{theirs}.input_layernorm"),
            *linear(f"{ours}.feedforward.widen", f"{theirs}.mlp.fc1"),
            *linear(f"{ours}.feedforward.narrow", f"{theirs}.mlp.fc2"),
        ]
    return result


def _around(
    config: TransformerConfig, checkpoint: Checkpoint, names: tuple[str, str, str]
) -> list[Entry]:
    """Return what stands around the layers: the embedding, the output matrix, the last norm."""
    embedding, head, norm = names
    check_head(checkpoint, config.tie_embeddings, head, embedding)
    result = [Entry("target_embedding.weight", (embedding,)), *linear("decoder_norm", norm)]
    if not config.tie_embeddings:
        result.append(Entry("output.weight", (head,)))
    if config.output_bias:
        result.append(Entry("output_bias", ("lm_head.bias",)))
    return result


def _ignored(name: str) -> bool:
    """Masks and frequencies that old files hold, and a copy of the embedding."""
    masks: Any = (".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq")
    return name in ("lm_head.weight", "embed_out.weight") or name.endswith(masks)


NEOX = Layout(configure, neox_entries, _ignored)
PHI = Layout(configure, phi_entries, _ignored)
