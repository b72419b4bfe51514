"""The verbs that only look: `report`, `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multistride.cli.console import print_json, say
from multistride.cli.options import JsonOption
from multistride.errors import UsageError


def report(
    results: Annotated[
        Path | None, typer.Argument(help="A result file of `evaluate` or `bench`.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write one self-contained HTML page.")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Write the picture (.svg; of a trace also .png).")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown.")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(help="Or show a trace that `translate --trace` wrote; --figure draws it."),
    ] = None,
    line: Annotated[
        int | None, typer.Option(min=1, help="Which line of the traced input (1).")
    ] = None,
) -> None:
    """Show a result file (table, picture, page), or a trace.

    The model is not needed. A figure of a result is quality against latency, of a trace why each
    step wrote so much.

    Example: multistride report results/multi30k-adapted.json --page multi30k.html
    """
    if (
        (results is None) == (trace is None)
        or (trace and (page or markdown))
        or (line and trace is None)
    ):
        raise UsageError(
            "report shows either a result file (with --page, --figure, --markdown) or a --trace (with --line, "
            "--figure): give one of them with its options"
        )
    from multistride.report.show import show_file, show_trace

    if trace is not None:
        show_trace(trace, line or 1, figure, say)
    elif results is not None:
        show_file(results, page, figure, markdown, say)


def inspect(
    model: Annotated[
        Path | None, typer.Argument(help="Model directory; left out: the one that ships.")
    ] = None,
    sentence: Annotated[
        str | None,
        typer.Option(help="Look into one translation instead: groups, probabilities, attention."),
    ] = None,
    group_size: Annotated[
        int | None, typer.Option(help="The sentence's tokens per step (K); left out: 1.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw where the sentence's steps looked (.svg, .png).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is in a model directory, or look into one sentence.

    Sizes, group sizes, where it came from; of a sentence what each step wrote, how probable it was,
    where it looked.

    Example: multistride inspect RUN/best --sentence "Where is the station?" --group-size 4
    --picture look.svg
    """
    if sentence is None and (picture or group_size):
        raise UsageError(
            "--picture and --group-size show a sentence, and none was given: give --sentence"
        )
    if sentence is not None:
        from multistride.evaluate.sentence import look_into
        from multistride.report.show import show_sentence
        from multistride.translator import Translator

        found = look_into(Translator.load(model), sentence, group_size or 1)
        show_sentence(found, picture, as_json, say)
        return
    from multistride.evaluate.inspection import inspect_model
    from multistride.shipped import DEFAULT

    facts = inspect_model(model or DEFAULT)
    if as_json:
        print_json(facts)
    else:
        for key, value in facts.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            typer.echo(f"{key.replace('_', ' '):20} {shown}")
