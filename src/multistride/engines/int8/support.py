"""Limits of the int8 engine: machines, versions of ONNX Runtime, and models."""

from __future__ import annotations

from multistride.cpu import multiplies_int8
from multistride.engines.int8.forms import block_bits
from multistride.engines.int8.native.library import wanted
from multistride.engines.int8.runtime import installed, onnxruntime
from multistride.engines.names import SIZES, WeightForm
from multistride.errors import MissingExtraError, UsageError
from multistride.model.config import TransformerConfig


def precision(config: TransformerConfig, form: WeightForm) -> str:
    """Return the precision of the weights and activations of a model, in words."""
    bits = block_bits(config, form)
    scales = f", a scale for every {SIZES[bits]}" if bits else ""
    return f"int{bits or 8} weights, int8 activations{scales}"


LARGEST = 2_000_000_000
"""Most bytes of the weights of a graph, which a file of ONNX cannot exceed."""


def check_supported(config: TransformerConfig) -> None:
    """Raise `UsageError`, naming the reason, for a model that this engine cannot run."""
    reason = None
    if config.adapter is not None:
        reason = f"adapters on mask slots (adapter.rank {config.adapter.rank})"
    elif config.encoder_layers and config.key_value_count != config.heads:
        reason = (
            f"shared heads of keys beside an encoder (key_value_heads {config.key_value_heads})"
        )
    elif not config.decoder_layers:
        reason = "a classifier without a decoder"
    elif config.output_cap is not None and (config.output_bias or config.markov_rank):
        reason = f"a bias or a Markov head beside capped logits (output_cap {config.output_cap})"
    elif (size := _decoder_bytes(config)) > LARGEST:
        reason = f"a decoder of {size / 1e9:.1f} GB (at most {LARGEST / 1e9:.0f})"
    if reason is not None:
        raise UsageError(f"the engine int8 has no place for {reason}: choose --engine eager")


def _decoder_bytes(config: TransformerConfig) -> int:
    """Return about how many bytes the weights of the decoder graph take, embeddings included."""
    queries = config.heads * config.head_width
    keys = config.key_value_count * config.head_width
    attention = config.hidden_size * 2 * (queries + keys)
    widened = 3 if config.gated_feedforward else 2
    layer = (2 if config.encoder_layers else 1) * attention
    layer += widened * config.hidden_size * config.feedforward_size
    return config.vocabulary_size * config.hidden_size + config.decoder_layers * layer


def check_int8(form: WeightForm = "int8") -> None:
    """Raise `MissingExtraError` or `UsageError` unless weights in this form can run here."""
    if form == "int4" and not multiplies_int8():
        raise UsageError(
            "the engine int4 was asked for; on x86 it needs a CPU with VNNI, as without it a text "
            "would depend on the others in its batch: choose --engine int8"
        )
    if not installed():
        raise MissingExtraError(
            "the engine int8 was asked for and ONNX Runtime is not installed: pip install "
            "'multistride[int8]', "
            "or choose --engine eager"
        )
    if not wanted():
        onnxruntime()
