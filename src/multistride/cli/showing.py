"""The verbs that only look: `report`, `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multistride.cli.options import JsonOption
from multistride.console import print_json, say
from multistride.errors import UsageError


def report(
    results: Annotated[Path, typer.Argument(help="A result file that `evaluate --output` wrote.")],
    page: Annotated[Path | None, typer.Option(help="Write one self-contained HTML page.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Write the quality-latency picture (SVG).")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Show a result file: table, picture or page.

    The model is not needed.

    Example: multistride report results/multi30k-foundation.json --page multi30k.html
    """
    from multistride.report.generation import read_generation, show_generation
    from multistride.report.results import read_results
    from multistride.report.show import show

    if (generation := read_generation(results)) is not None:
        if page or figure:
            raise UsageError(
                f"{results} is about a causal model, which has a table only: leave --page and --figure out"
            )
        show_generation(generation, markdown)
        return
    show(read_results(results), page, figure, markdown, say)


def inspect(
    model: Annotated[Path | None, typer.Argument(help="Model directory; left out: the one that ships.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is in a model directory.

    Sizes, group sizes, where it came from.

    Example: multistride inspect RUN/best
    """
    from multistride.model.inspection import inspect_model
    from multistride.shipped import DEFAULT

    facts = inspect_model(model or DEFAULT)
    if as_json:
        print_json(facts)
    else:
        for key, value in facts.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            typer.echo(f"{key.replace('_', ' '):20} {shown}")
