"""The model card written beside every checkpoint."""

from __future__ import annotations

from multistride.data.batch import PreparedData
from multistride.model.transformer import Transformer
from multistride.train.config import RunConfig
from multistride.version import __version__


def model_card(model: Transformer, config: RunConfig, data: PreparedData) -> str:
    """A README.md: what the model is, what it was trained on and how to run it."""
    shape, training = model.config, config.training
    parameters = sum(parameter.numel() for parameter in model.parameters())
    sizes = ", ".join(str(size) for size in shape.group_sizes)
    files = [
        entry["path"] for split in data.manifest["splits"].values() for entry in split["files"]
    ]
    verb, source = (
        ("translate", "source") if shape.encoder_layers else ("generate --mode exact", "prompts")
    )
    task = f"trained to write K tokens per step for K in {{{sizes}}}"
    if shape.adapter is not None:
        rank = shape.adapter.rank
        task = f"with adapters of rank {rank} that draft, K in {{{sizes}}}; its text is unchanged"
    if shape.classifier is not None:
        verb, source = "classify", "documents"
        task = f"that knows {len(shape.classifier.classes)} classes ({shape.classifier.kind})"
    groups = "" if shape.decoder_layers == 0 else f" --group-size {max(shape.group_sizes)}"
    start = f"the weights of `{config.start_from}`" if config.start_from else "random weights"
    lines = [
        "# A multistride model",
        "",
        f"A Transformer of {parameters / 1e6:.1f} million parameters ({shape.encoder_layers} "
        "encoder and "
        f"{shape.decoder_layers} decoder layers, width {shape.hidden_size}, vocabulary "
        f"{shape.vocabulary_size}) "
        f"{task}.",
        "",
        "## How to run it",
        "",
        "```sh",
        f"multistride {verb} --model .{groups} < {source}.txt",
        "```",
        "",
        "## How it was made",
        "",
        f"- data: {', '.join(files) or 'see provenance.json'} (hash `{data.data_hash[:16]}`)",
        f"- start: {start}",
        f"- recipe: {training.updates} updates of {training.tokens_per_batch} tokens x "
        f"{training.accumulate}, "
        f"learning rate {training.learning_rate} ({training.schedule}), label smoothing "
        f"{training.label_smoothing}",
        f"- made with multistride {__version__}; every setting is in `provenance.json`",
        "",
        "## Licence and limits",
        "",
        "The licence of a model follows that of its data: state it here before passing the model "
        "on.",
        "",
    ]
    return "\n".join(lines)
