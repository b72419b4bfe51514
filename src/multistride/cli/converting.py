"""The verb that takes models of other programs in: `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multistride.cli.console import say


def convert(
    source: Annotated[
        str,
        typer.Argument(help="Directory as transformers writes it, GGUF file, or name on the hub."),
    ],
    directory: Annotated[Path, typer.Argument(help="Model directory to write.")],
) -> None:
    """Make a model directory of a Hugging Face or GGUF checkpoint.

    At K=1 the model writes what the original writes; larger groups need training. Weights in
    pickles are refused, and no code of a checkpoint is ever run.

    Example: multistride convert HuggingFaceTB/SmolLM2-135M-Instruct models/smollm2
    """
    from multistride.convert.run import convert as convert_checkpoint

    result = convert_checkpoint(source, directory, say)
    parameters = sum(parameter.numel() for parameter in result.model.parameters())
    say(
        f"written: {directory} ({result.checkpoint.model_type}, {parameters / 1e6:,.1f} million parameters)"
    )
