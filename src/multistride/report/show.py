"""A result, a trace or a sentence, shown the way a person asked for."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multistride.errors import UsageError, UserError
from multistride.files import json_text, replacing_file, write_json
from multistride.report.attention import attention_size, draw_attention, sentence_table
from multistride.report.cells import Terminal
from multistride.report.drawing import check_picture, drawing, save
from multistride.report.outputs import Outputs
from multistride.report.page import check_page, write_page
from multistride.report.plots import plotter
from multistride.report.reading import read_result
from multistride.report.result import Result
from multistride.report.seeds import table_of_seeds
from multistride.report.tables import markdown, terminal
from multistride.report.trace import draw_trace, read_trace, trace_size, trace_table

logger = logging.getLogger(__name__)

WAYS = ("threshold", "policy", "layout", "drafts", "group_beam")
"""Conditions that are options of decoding."""


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
        print(json_text(result.written()))
    else:
        Terminal().print(terminal(result))
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
        Terminal().print(terminal(result))
    if picture is not None:
        draw(result, picture)
    if page is not None:
        write_page(result, page, commands(result))
        logger.info(f"written: {page}")


def show_files(
    paths: Sequence[Path],
    page: Path | None = None,
    picture: Path | None = None,
    as_markdown: bool = False,
) -> None:
    """Show one result file (`show_file`), or print one table of several of one measurement.

    Raises as `show_file` does, and `UsageError` for results of different measurements, and for a
    page or a picture of several.
    """
    if len(paths) == 1:
        show_file(paths[0], page, picture, as_markdown)
        return
    if page is not None or picture is not None:
        raise UsageError(
            f"{len(paths)} results were given with --page or --figure, which show one: give one "
            "file, or leave them out"
        )
    cells = table_of_seeds({str(path): read_result(path) for path in paths})
    if as_markdown:
        print(cells.markdown(), end="")
    else:
        Terminal().print(cells.terminal())


def show_trace(trace: Path, line: int, picture: Path | None) -> None:
    """Print the steps of one line of a trace on stdout; draw them if a picture is named."""
    entries = read_trace(trace, line)
    Terminal().print(trace_table(entries).terminal())
    if picture is not None:
        with drawing(*trace_size(entries)) as canvas:
            draw_trace(canvas, entries)
            save(canvas, picture)
        logger.info(f"written: {picture}")


def show_sentence(facts: Mapping[str, Any], picture: Path | None, as_json: bool) -> None:
    """Print what is known of one translation on stdout; draw its attention if asked to."""
    if as_json:
        print(json_text(facts))
    else:
        Terminal().print(sentence_table(facts).terminal())
    if picture is not None:
        with drawing(*attention_size(facts)) as canvas:
            draw_attention(canvas, facts)
            save(canvas, picture)
        logger.info(f"written: {picture}")


def commands(result: Result) -> list[str]:
    """Return the commands that reproduce a result, as far as its conditions tell."""
    known = result.conditions
    model = ["--model", str(known.get("model"))]
    kind = ["--kind", result.kind] if result.kind != "translation" else []
    what = ["--task", result.task] if result.task else kind
    sizes = list(dict.fromkeys(str(row.group_size) for row in result.rows))
    modes = list(dict.fromkeys(row.mode for row in result.rows))
    signatures = (re.search(r"tok:([^|]+)", row.bleu_signature or "") for row in result.rows)
    tokenizer = next((found[1] for found in signatures if found), "13a")
    only = {name: {getattr(row, name) for row in result.rows} for name in ("beam", "engine")}
    same = {name: str(*values) for name, values in only.items() if len(values) == 1}
    asked = {name: known[name] for name in WAYS if known.get(name) is not None}
    shared = _options({**same, **asked}, beam="1")
    shared += ["--sentences"] if known.get("split_sentences") else []
    measuring = {
        "source": known.get("source"),
        "reference": known.get("reference"),
        "limit": known.get("limit"),
        "tokenize": tokenizer,
        "group_size": ",".join(sizes),
        "mode": ",".join(modes),
    }
    evaluate = [*model, *what, *_options(measuring, tokenize="13a", mode="fast"), *shared]
    last = {"group_size": sizes[-1], "mode": modes[-1]}
    translate = [*model, *_options(last, mode="fast"), *shared]
    return [
        shlex.join(["multistride", "evaluate", *evaluate, "--json"]),
        shlex.join(["multistride", "translate", *translate]) + " < source.txt",
    ]


def _options(values: Mapping[str, Any], **defaults: str) -> list[str]:
    """Return values as options of a command, but those that are None or a default."""
    return [
        part
        for name, value in values.items()
        if value is not None and str(value) != defaults.get(name)
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def _write(path: Path, text: str) -> None:
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    logger.info(f"written: {path}")
