"""The verb that writes a model in another form: `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multistride.cli.console import say


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
