"""The verbs that move models in and out: `convert`, `export`."""

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


def export(
    model: Annotated[Path, typer.Argument(help="Model directory, for example RUN/best.")],
    output: Annotated[Path, typer.Argument(help="Directory to write.")],
    to: Annotated[
        str,
        typer.Option(help="int8 (ONNX, for --engine int8) or ctranslate2 (K=1, extra [bench])."),
    ] = "int8",
) -> None:
    """Write a model in the form of a faster engine, or of another program.

    An int8 export is smaller and loads without the float32 weights. It can translate, but not be
    scored or trained.

    Example: multistride export RUN/best RUN/int8 --to int8
    """
    from multistride.baselines.export import export as export_model

    export_model(model, to, output)
    say(f"written: {output}")
