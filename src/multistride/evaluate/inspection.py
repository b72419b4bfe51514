"""Facts about a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multistride.data.vocabulary_files import load_vocabulary
from multistride.model.config import TransformerConfig
from multistride.model.directory import (
    INT8_NATIVE,
    INT8_WEIGHTS,
    WEIGHTS,
    is_export,
    load_config,
    load_provenance,
    weights_digest,
)
from multistride.model.weights import load_model


def inspect_model(directory: Path) -> dict[str, Any]:
    """Return sizes, group sizes and origin of a model. Raises `DataError` if it is incomplete.

    An int8 export has no weights in float32 whose number could be given; its `weights_sha256` is
    that of the weights it was made from.
    """
    config, provenance = load_config(directory), load_provenance(directory)
    exported = is_export(directory)
    if exported:
        parameters, vocabulary = None, load_vocabulary(directory)
        names = "*.onnx", INT8_WEIGHTS, INT8_NATIVE
        weights = [path for name in names for path in directory.glob(name)]
    else:
        model, vocabulary = load_model(directory)
        parameters, weights = (
            sum(each.numel() for each in model.parameters()),
            [directory / WEIGHTS],
        )
    training = provenance.get("config") or {}
    original = provenance.get("converted_from")
    return {
        "directory": str(directory),
        "kind": f"{_kind(config)}, exported to int8" if exported else _kind(config),
        "parameters": parameters,
        "layers": f"{config.encoder_layers} encoder, {config.decoder_layers} decoder",
        "hidden_size": config.hidden_size,
        "feedforward_size": config.feedforward_size,
        "heads": config.heads,
        "norm": config.norm,
        "adapter": config.adapter
        and f"rank {config.adapter.rank}, last {config.adapter.layers} layers, for drafts",
        "positions": f"{config.positions}, at most {config.max_positions} tokens{_window(config)}",
        "vocabulary": len(vocabulary),
        "classes": list(config.classifier.classes) if config.classifier else None,
        "group_sizes": list(config.group_sizes),
        "trained_to_draft": config.lookahead,
        "weights_megabytes": round(sum(each.stat().st_size for each in weights) / 1e6, 1),
        "weights_sha256": weights_digest(directory),
        "made_with": f"multistride {provenance.get('multistride', 'unknown')}",
        "started_from": f"{original['source']} ({original['model_type']})"
        if original
        else training.get("start_from") or "random weights",
        "updates": provenance.get("update"),
        "data_hash": provenance.get("data_hash"),
    }


def _window(config: TransformerConfig) -> str:
    if config.attention_window is None:
        return ""
    layers = config.window_layers
    where = "" if layers is None else f" in {len(layers)} decoder layers"
    return f", a window of {config.attention_window}{where}"


def _kind(config: TransformerConfig) -> str:
    if config.classifier is not None:
        wide = ", with a wide path" if config.classifier.wide else ""
        return f"classifier ({config.classifier.kind}{wide})"
    return "encoder-decoder" if config.encoder_layers else "decoder-only (causal)"
