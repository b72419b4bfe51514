"""A result, a trace or a sentence, shown the way a person asked for."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from multistride.errors import UsageError, UserError
from multistride.files import replacing_file, write_json
from multistride.report.attention import attention_size, draw_attention, sentence_table
from multistride.report.drawing import check_picture, drawing, save
from multistride.report.outputs import Outputs
from multistride.report.page import check_page, write_page
from multistride.report.plots import plotter
from multistride.report.reading import read_result
from multistride.report.result import Result
from multistride.report.tables import markdown, terminal
from multistride.report.trace import draw_trace, read_trace, trace_size, trace_table

logger = logging.getLogger(__name__)


def show(result: Result, outputs: Outputs) -> None:
    """Write a result to the files that were named, and print it as JSON or as its table.

    The result itself is written first: a picture that fails does not lose it. It is printed even
    where its file cannot be written.
    """
    lost: UserError | None = None
    if outputs.output is not None:
        try:
            write_json(outputs.output, result.written())
            logger.info(f"written: {outputs.output}")
        except UserError as error:
            lost = error
    if outputs.as_json:
        print(json.dumps(result.written(), ensure_ascii=False, indent=2))
    else:
        Console().print(terminal(result))
    if lost is not None:
        raise lost
    if outputs.markdown is not None:
        _write(outputs.markdown, markdown(result))
    if outputs.picture is not None:
        draw(result, outputs.picture)


def draw(result: Result, picture: Path) -> None:
    """Draw a result into a file. Raises `UsageError` for a result without a picture."""
    width, height, draw_on = plotter(result)
    with drawing(width, height) as canvas:
        draw_on(canvas, result)
        save(canvas, picture)
    logger.info(f"written: {picture}")


def show_file(
    path: Path, page: Path | None = None, picture: Path | None = None, as_markdown: bool = False
) -> None:
    """Print a result file on stdout; write a page and a picture if they are named.

    Raises `DataError` if the file is no result, `UsageError` for a page or a picture that this kind
    of result does not have.
    """
    result = read_result(path)
    if page is not None:
        if result.kind not in ("translation", "phonemes"):
            raise UsageError(
                f"{path} is of kind {result.kind}, which has no page: leave --page out "
                "(--markdown and --figure are there)"
            )
        check_page()
    if picture is not None:
        check_picture(picture)
        plotter(result)
    if as_markdown:
        print(markdown(result), end="")
    else:
        Console().print(terminal(result))
    if picture is not None:
        draw(result, picture)
    if page is not None:
        write_page(result, page, commands(result))
        logger.info(f"written: {page}")


def show_trace(trace: Path, line: int, picture: Path | None) -> None:
    """Print the steps of one line of a trace on stdout; draw them if a picture is named."""
    entries = read_trace(trace, line)
    Console().print(trace_table(entries).terminal())
    if picture is not None:
        with drawing(*trace_size(entries)) as canvas:
            draw_trace(canvas, entries)
            save(canvas, picture)
        logger.info(f"written: {picture}")


def show_sentence(facts: Mapping[str, Any], picture: Path | None, as_json: bool) -> None:
    """Print what is known of one translation on stdout; draw its attention if asked to."""
    if as_json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
    else:
        Console().print(sentence_table(facts).terminal())
    if picture is not None:
        with drawing(*attention_size(facts)) as canvas:
            draw_attention(canvas, facts)
            save(canvas, picture)
        logger.info(f"written: {picture}")


def commands(result: Result) -> list[str]:
    """Return the commands that reproduce a result, as far as its conditions tell."""
    model, source, reference = (
        str(result.conditions.get(name)) for name in ("model", "source", "reference")
    )
    sizes = list(dict.fromkeys(str(row.group_size) for row in result.rows))
    beams = {row.beam for row in result.rows}
    beam = ["--beam", str(max(beams))] if len(beams) == 1 and beams != {1} else []
    files = ["--source", source, "--reference", reference]
    evaluate = ["evaluate", "--model", model, *files, "--group-size", ",".join(sizes), *beam]
    translate = ["translate", "--model", model, "--group-size", sizes[-1], *beam]
    return [
        shlex.join(["multistride", *evaluate, "--json"]),
        shlex.join(["multistride", *translate]) + " < source.txt",
    ]


def _write(path: Path, text: str) -> None:
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    logger.info(f"written: {path}")
