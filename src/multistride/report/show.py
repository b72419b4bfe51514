"""One result file, shown the way a person asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from multistride.errors import UsageError
from multistride.files import replacing_file, write_json
from multistride.report.attention import attention_size, draw_attention, sentence_table
from multistride.report.benchmark import BenchmarkResult, is_benchmark, read_benchmark
from multistride.report.benchmark_figure import benchmark_figure
from multistride.report.benchmark_tables import benchmark_markdown, benchmark_tables
from multistride.report.drawing import drawing, save
from multistride.report.figures import quality_latency_figure
from multistride.report.generation import read_generation, show_generation
from multistride.report.kept import kept_table, show_kept
from multistride.report.page import write_page
from multistride.report.places import places_table
from multistride.report.results import EvaluationResult, read_results
from multistride.report.tables import examples_table, markdown_table, quality_table
from multistride.report.tasks import TaskResult, read_task, show_task, task_table
from multistride.report.trace import draw_trace, read_trace, trace_size, trace_table


def show_file(
    path: Path,
    page: Path | None,
    figure: Path | None,
    markdown: bool,
    report: Callable[[str], None],
) -> None:
    """Show a result file of any kind.

    Raises `DataError` if it is none, and `UsageError` for a page or picture that this kind of
    result has not.
    """
    if (generation := read_generation(path)) is not None:
        if page or figure:
            raise UsageError(
                f"{path} is about a causal model, which has a table only: leave --page and --figure out"
            )
        show_generation(generation, markdown)
        return
    if (task := read_task(path)) is not None:
        if task.task == "generation":
            show_kept(task, path, page, figure, markdown, report)
            return
        if page or markdown:
            raise UsageError(
                f"{path} is about a task, which has tables and a --figure: leave the others out"
            )
        show_task(task, path, figure, report)
        return
    if not is_benchmark(path):
        show(read_results(path), page, figure, markdown, report)
        return
    if page is not None:
        raise UsageError(
            f"--page was given, and {path} is a benchmark, which has none: choose --markdown or --figure"
        )
    result = read_benchmark(path)
    if markdown:
        print(benchmark_markdown(result), end="")
    show_benchmark(result, None, None, figure, table=not markdown, report=report)


def task_table_of(result: TaskResult) -> Table:
    """The table that suits the task."""
    return kept_table(result) if result.task == "generation" else task_table(result)


def show_benchmark(
    result: BenchmarkResult,
    output: Path | None,
    markdown: Path | None,
    picture: Path | None,
    table: bool,
    report: Callable[[str], None],
) -> None:
    """Print the tables of a benchmark on stdout if `table`; write the object, the tables, the
    picture where asked.
    """
    if output is not None:
        write_json(output, result.model_dump(mode="json"))
        report(f"written: {output}")
    for path, text in ((markdown, benchmark_markdown), (picture, benchmark_figure)):
        if path is not None:
            with replacing_file(path) as temporary:
                temporary.write_text(text(result), encoding="utf-8")
            report(f"written: {path}")
    if table:
        Console().print(benchmark_tables(result))


def show(
    result: EvaluationResult,
    page: Path | None,
    figure: Path | None,
    markdown: bool,
    report: Callable[[str], None],
) -> None:
    """Print the table (and the worked examples) on stdout; write the page and the picture where
    asked.

    Raises `MissingExtraError` if a picture is asked for and matplotlib is not installed.
    """
    if markdown:
        print(markdown_table(result), end="")
    else:
        console = Console()
        console.print(quality_table(result))
        if result.places:
            console.print(places_table(result))
        if result.examples:
            console.print(examples_table(result))
    if figure is not None:
        with replacing_file(figure) as temporary:
            temporary.write_text(quality_latency_figure(result), encoding="utf-8")
        report(f"written: {figure}")
    if page is not None:
        write_page(result, page, _commands(result))
        report(f"written: {page}")


def show_trace(trace: Path, line: int, figure: Path | None, report: Callable[[str], None]) -> None:
    """Print the steps of one line of a trace on stdout; draw them where asked (.svg or .png)."""
    entries = read_trace(trace, line)
    Console().print(trace_table(entries))
    if figure is not None:
        with drawing(*trace_size(entries)) as canvas:
            draw_trace(canvas, entries)
            save(canvas, figure)
        report(f"written: {figure}")


def show_sentence(
    facts: Mapping[str, Any], picture: Path | None, as_json: bool, report: Callable[[str], None]
) -> None:
    """Print what is known of one translation on stdout; draw its attention where asked (.svg or
    .png).
    """
    if as_json:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
    else:
        Console().print(sentence_table(facts))
    if picture is not None:
        with drawing(*attention_size(facts)) as canvas:
            draw_attention(canvas, facts)
            save(canvas, picture)
        report(f"written: {picture}")


def _commands(result: EvaluationResult) -> list[str]:
    """What reproduces the result, as far as its settings tell."""
    settings = result.settings
    sizes = ",".join(str(row.group_size) for row in result.results)
    beams = {row.beam for row in result.results}
    beam = f" --beam {max(beams)}" if len(beams) == 1 and beams != {1} else ""
    return [
        f"multistride evaluate --model {settings.get('model')} --source {settings.get('source')} "
        f"--reference {settings.get('reference')} --group-size {sizes}{beam} --json",
        f"multistride translate --model {settings.get('model')} --group-size {sizes.rpartition(',')[2]}{beam} "
        "< source.txt",
    ]
