"""The README.md of a converted model: what it was, what was kept, what was lost."""

from __future__ import annotations

import re
from pathlib import Path

from multistride.convert.checkpoint import Checkpoint
from multistride.model.config import TransformerConfig

_LICENCE = re.compile(r"^license:\s*(\S+)", re.MULTILINE)


def model_card(checkpoint: Checkpoint, config: TransformerConfig, lost: tuple[str, ...]) -> str:
    """The text of the card. The licence is the one that the original's README.md names."""
    kind = "encoder-decoder" if config.encoder_layers else "causal"
    lines = [
        f"# {_short(checkpoint)}, converted",
        "",
        f"A {kind} model of the layout `{checkpoint.model_type}`, made by `multistride convert`. At K=1 it writes "
        "what the original writes; for larger groups it has to be trained first.",
        "",
        f"- Licence: {_licence(checkpoint)}",
        f"- Original: `{_short(checkpoint)}`; SHA-256 of its files in `provenance.json`",
        f"- Vocabulary: {config.vocabulary_size:,} entries, tokenizer and special tokens of the original",
        *(f"- Not kept: {line}" for line in lost),
    ]
    return "\n".join(lines) + "\n"


def _short(checkpoint: Checkpoint) -> str:
    """The name of a model on the hub, or of the file or directory without the way to it."""
    path = Path(checkpoint.name)
    return path.name if path.exists() else checkpoint.name


def _licence(checkpoint: Checkpoint) -> str:
    readme = checkpoint.directory / "README.md" if checkpoint.directory else None
    text = (
        readme.read_text(encoding="utf-8", errors="replace") if readme and readme.is_file() else ""
    )
    found = _LICENCE.search(text) or _LICENCE.search(
        f"license: {checkpoint.config.get('license', '')}"
    )
    return (
        f"{found[1]} (that of the original)"
        if found
        else "that of the original, which does not name it here"
    )
