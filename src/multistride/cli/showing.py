"""The verbs that only look: `report`, `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multistride.cli.console import print_json, refuse_shared_files
from multistride.cli.options import JsonOption, model_directory
from multistride.errors import UsageError


def report(
    *,
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Result file that `evaluate` or `bench` wrote; several of `evaluate`, such as "
            "those of several seeds, for one table of means."
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Show a trace that `translate --trace` wrote instead.", rich_help_panel="Input"
        ),
    ] = None,
    line: Annotated[
        int | None,
        typer.Option(
            min=1, help="Line of the traced input to show (default: 1).", rich_help_panel="Input"
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="Write one self-contained HTML page.", rich_help_panel="Output"),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw it (.svg or .png).", rich_help_panel="Output")
    ] = None,
    markdown: Annotated[
        bool,
        typer.Option("--markdown", help="Print the table as Markdown.", rich_help_panel="Output"),
    ] = False,
) -> None:
    """Show a result file as a table, picture or page, or show a trace.

    The model is not needed. A figure of a result is quality against latency; of a trace, why each
    step wrote so many tokens. Of several results of the same text and options the table shows the
    mean of every figure, with the lowest and the highest.

    Example: multistride report results/multi30k-adapted.json --page multi30k.html
    """
    files = results or []
    if (
        bool(files) == (trace is not None)
        or (trace and (page or markdown))
        or (line and trace is None)
    ):
        raise UsageError(
            "report shows either a result file (with --page, --figure, --markdown) or a --trace "
            "(with --line, "
            "--figure): give one of them with its options"
        )
    from multistride.report.show import show_files, show_trace

    refuse_shared_files([*files, trace], [page, figure])
    _check_outputs(page, figure)
    if trace is not None:
        show_trace(trace, line or 1, figure)
    else:
        show_files(files, page, figure, markdown)


def _check_outputs(page: Path | None, figure: Path | None) -> None:
    """Raise `UserError` for a file that cannot be written before anything is read."""
    from multistride.files import check_writable
    from multistride.report.drawing import check_picture

    for path in (page, figure):
        if path is not None:
            check_writable(path)
    if figure is not None:
        check_picture(figure)


def inspect(
    *,
    model: Annotated[
        Path | None,
        typer.Argument(
            callback=model_directory,
            help="Model directory, or the name of a model that ships (default: English to German).",
        ),
    ] = None,
    sentence: Annotated[
        str | None,
        typer.Option(
            help="Look into one translation instead: groups, probabilities, attention.",
            rich_help_panel="Input",
        ),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            help="With --sentence: tokens per step (default: 1).", rich_help_panel="Decoding"
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="With --sentence: draw where its steps looked (.svg or .png).",
            rich_help_panel="Output",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is in a model directory, or look into one sentence.

    Of a model: sizes, group sizes and where it came from. Of a sentence: what each step wrote, how
    probable it was, and where it looked.

    Example: multistride inspect RUN/best --sentence "Where is the station?" --group-size 4
    --picture look.svg
    """
    if sentence is None and (picture is not None or group_size is not None):
        raise UsageError(
            "--picture and --group-size show a sentence, and none was given: give --sentence"
        )
    if sentence is None:
        _inspect_model(model, as_json)
    else:
        _inspect_sentence(
            model, sentence, 1 if group_size is None else group_size, picture, as_json
        )


def _inspect_sentence(
    model: Path | None, sentence: str, group_size: int, picture: Path | None, as_json: bool
) -> None:
    from multistride.evaluate.sentence import look_into
    from multistride.evaluate.settle import settle
    from multistride.report.show import show_sentence
    from multistride.translator import Translator

    settle([], picture=picture)
    translator = Translator.load(model, engine="eager")
    show_sentence(look_into(translator, sentence, group_size), picture, as_json)


def _inspect_model(model: Path | None, as_json: bool) -> None:
    from multistride.evaluate.inspection import inspect_model
    from multistride.shipped import DEFAULT

    facts = inspect_model(model or DEFAULT)
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        if value is None:
            continue
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{key.replace('_', ' '):20} {shown}")
