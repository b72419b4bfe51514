"""The GPT-2 layout: pre-norm, learned positions, GELU by its approximation, output and embedding
one matrix.

GPT-2 counts the places of tokens that are read, we count those that are predicted, which is one
more: the table of positions is shifted by one, and K=1 is the original. Its row 0 is for a start
symbol, which GPT-2 does not have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from multistride.convert.checkpoint import Checkpoint
from multistride.convert.names import Entry, Layout, check_head, linear, refuse
from multistride.errors import DataError
from multistride.model.config import TransformerConfig

ACTIVATIONS = {
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "gelu": "gelu",
    "relu": "relu",
}


def configure(checkpoint: Checkpoint) -> TransformerConfig:
    """Return our configuration of a GPT-2.

    Raises `DataError` for the scalings of attention that few of them have.
    """
    config = checkpoint.config
    activation = config.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise refuse(checkpoint, f"the activation {activation}")
    if not config.get("scale_attn_weights", True) or config.get(
        "scale_attn_by_inverse_layer_idx", False
    ):
        raise refuse(
            checkpoint, "attention that is scaled otherwise than by the root of the width of a head"
        )
    return TransformerConfig.model_validate(
        {
            "vocabulary_size": config["vocab_size"],
            "hidden_size": config["n_embd"],
            "feedforward_size": config.get("n_inner") or 4 * config["n_embd"],
            "heads": config["n_head"],
            "encoder_layers": 0,
            "decoder_layers": config["n_layer"],
            "norm_epsilon": config.get("layer_norm_epsilon", 1e-5),
            "activation": ACTIVATIONS[activation],
            "positions": "learned",
            "max_positions": config["n_positions"],
            "tie_embeddings": config.get("tie_word_embeddings", True),
            "scale_embeddings": False,
            "start_symbol": False,
            "dropout": config.get("resid_pdrop", 0.1),
            "attention_dropout": config.get("attn_pdrop", 0.1),
        }
    )


def entries(config: TransformerConfig, checkpoint: Checkpoint) -> list[Entry]:
    """Return the name map.

    Older files leave out the `transformer.` in front of all names.
    """
    front = (
        "transformer." if any(name.startswith("transformer.") for name in checkpoint.names) else ""
    )
    check_head(checkpoint, config.tie_embeddings, "lm_head.weight", f"{front}wte.weight")
    last = config.max_positions + config.max_group_size
    result = [
        Entry("target_embedding.weight", (f"{front}wte.weight",)),
        Entry(
            "position.table",
            (f"{front}wpe.weight",),
            lambda table: extended(
                torch.cat([table[:1], whole(checkpoint, table, config.max_positions)]), last
            ),
        ),
        *linear("decoder_norm", f"{front}ln_f"),
    ]
    if not config.tie_embeddings:
        result.append(Entry("output.weight", ("lm_head.weight",)))
    for number in range(config.decoder_layers):
        ours, theirs = f"decoder.{number}", f"{front}h.{number}"
        result += [
            *linear(f"{ours}.around_attention.norm", f"{theirs}.ln_1"),
            *linear(f"{ours}.attention.input", f"{theirs}.attn.c_attn", change=_turned),
            *linear(f"{ours}.attention.output", f"{theirs}.attn.c_proj", change=_turned),
            *linear(f"{ours}.around_feedforward.norm", f"{theirs}.ln_2"),
            *linear(f"{ours}.feedforward.widen", f"{theirs}.mlp.c_fc", change=_turned),
            *linear(f"{ours}.feedforward.narrow", f"{theirs}.mlp.c_proj", change=_turned),
        ]
    return result


def whole(checkpoint: Checkpoint, table: Tensor, positions: int) -> Tensor:
    """Return a table of positions. Raises `DataError` if it has fewer than config.json says."""
    if table.dim() != 2 or len(table) < positions:
        raise DataError(
            f"{checkpoint.name} does not fit its config.json: its table of positions is "
            f"{tuple(table.shape)}, and {positions} positions are said: use the files of one model"
        )
    return table


def extended(table: Tensor, rows: int) -> Tensor:
    """Return the table with its last row repeated, for places past the context, or cut."""
    more = rows - len(table)
    return table[:rows] if more <= 0 else torch.cat([table, table[-1:].expand(more, -1)])


def _turned(tensor: Tensor) -> Tensor:
    """GPT-2 stores matrices with inputs first."""
    return tensor.T.contiguous() if tensor.dim() == 2 else tensor


LAYOUT = Layout(
    configure,
    entries,
    ignored=lambda name: (
        name == "lm_head.weight" or name.endswith((".attn.bias", ".attn.masked_bias"))
    ),
)
