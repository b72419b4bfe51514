"""What is kept of the autoregressive model's quality when texts are written K tokens at a time, and
what it brings.

Made from the result of `multistride evaluate --task generation` alone. Everything is compared with
the teacher at K=1 where the result has one, else with K=1 of the model itself.

Drawing needs matplotlib; the module imports without it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from multistride.errors import UsageError
from multistride.report.drawing import COLOURS, FAINT, GRID, drawing, save, tidy
from multistride.report.tables import ABSENT, markdown_line, milliseconds, narrow
from multistride.report.tasks import TaskMeasurement, TaskResult

Show = Callable[[TaskMeasurement, TaskMeasurement], str]

MEASURES = {
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "concept_coverage": "concepts",
}
"""What the picture shows the kept share of."""


def baseline(result: TaskResult) -> TaskMeasurement:
    """The row that all are compared with: the teacher, else K=1, else the first."""
    teachers = [row for row in result.results if row.model == "teacher"]
    alone = [row for row in result.results if row.group_size == 1]
    return [*teachers, *alone, *result.results][0]


def kept(row: TaskMeasurement, first: TaskMeasurement, measure: str) -> float | None:
    """A figure as a share of the baseline's; None where one of them is missing or that is 0."""
    own, other = row.metrics.get(measure), first.metrics.get(measure)
    return own / other if own is not None and other else None


def _number(measure: str, decimals: int, times: float = 1.0) -> Show:
    def show(row: TaskMeasurement, first: TaskMeasurement) -> str:
        value = row.metrics.get(measure)
        return ABSENT if value is None else f"{times * value:.{decimals}f}"

    return show


def _share(row: TaskMeasurement, first: TaskMeasurement) -> str:
    share = kept(row, first, "rouge_l")
    return ABSENT if share is None else f"{100 * share:.1f}"


def _latency(row: TaskMeasurement, first: TaskMeasurement) -> str:
    if row.ms_per_record_p50 is None or row.ms_per_record_p95 is None:
        return ABSENT
    return f"{milliseconds(row.ms_per_record_p50)} ({milliseconds(row.ms_per_record_p95)})"


def _speed_up(row: TaskMeasurement, first: TaskMeasurement) -> str:
    ratio = speed_up(row, first)
    return ABSENT if ratio is None else f"{ratio:.2f}×"


def speed_up(row: TaskMeasurement, first: TaskMeasurement) -> float | None:
    """How many times less time than the baseline a record takes alone (median); None when
    unknown.
    """
    if not row.ms_per_record_p50 or first.ms_per_record_p50 is None:
        return None
    return first.ms_per_record_p50 / row.ms_per_record_p50


COLUMNS: tuple[tuple[str, Show], ...] = (
    ("model", lambda row, first: "teacher" if row.model == "teacher" else "this"),
    ("K", lambda row, first: f"{row.group_size}"),
    ("mode", lambda row, first: row.mode),
    ("ROUGE-L", _number("rouge_l", 1, 100)),
    ("% kept", _share),
    ("ROUGE-2", _number("rouge_2", 1, 100)),
    ("BLEU", _number("bleu", 1)),
    ("concepts %", _number("concept_coverage", 1, 100)),
    ("length", _number("length_ratio", 2)),
    ("repeats %", _number("repetition_rate", 1, 100)),
    ("distinct-2 %", _number("distinct_2", 1, 100)),
    ("self-BLEU %", _number("self_bleu", 1, 100)),
    ("perplexity", _number("perplexity", 1)),
    ("tokens/step", _number("tokens_per_step", 2)),
    ("ms/text p50 (p95)", _latency),
    ("speed up", _speed_up),
    (
        "same as K=1 %",
        lambda row, _: ABSENT if row.same_as_k1 is None else f"{100 * row.same_as_k1:.1f}",
    ),
)
"""Headings, and how a row is shown beside the baseline. Columns that are empty in all rows are left
out."""

_WORDS = ("model", "mode")

_ON_TERMINAL = {
    "model",
    "K",
    "mode",
    "ROUGE-L",
    "% kept",
    "concepts %",
    "repeats %",
    "tokens/step",
    "speed up",
}
"""What 80 columns hold; Markdown has all."""


def kept_cells(result: TaskResult) -> list[list[str]]:
    """The headings and, row by row, the cells under them."""
    first = baseline(result)
    rows = [[show(row, first) for _, show in COLUMNS] for row in result.results]
    used = [place for place in range(len(COLUMNS)) if any(row[place] != ABSENT for row in rows)]
    return [
        [each[place] for place in used] for each in ([heading for heading, _ in COLUMNS], *rows)
    ]


def kept_table(result: TaskResult) -> Table:
    """The most telling columns, for the terminal."""
    cells = kept_cells(result)
    shown = [place for place, heading in enumerate(cells[0]) if heading in _ON_TERMINAL]
    headings, *rows = ([row[place] for place in shown] for row in cells)
    table = Table(
        title=Text(result.name), title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False
    )
    for heading, *column in zip(headings, *rows, strict=True):
        text = Text(narrow(heading, max(map(len, column))))
        table.add_column(text, justify="left" if heading in _WORDS else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def kept_markdown(result: TaskResult) -> str:
    """The same as a Markdown table, BLEU's signature under it. Ends with a line break."""
    headings, *rows = kept_cells(result)
    rules = [":--" if heading in _WORDS else "--:" for heading in headings]
    signature = result.results[0].details.get("bleu_signature")
    after = ["", f"BLEU `{signature}`"] if signature else []
    return "\n".join([*(markdown_line(cells) for cells in (headings, rules, *rows)), *after]) + "\n"


PICTURE_SIZE = (8.2, 4.2)
"""Inches."""


def draw_kept(figure: Any, result: TaskResult) -> None:
    """Two panels against K: the quality that is kept, and how many times faster one text is. Whole
    groups only.

    Raises `UsageError` for a result that has no K above 1 in mode fast, or no ROUGE.
    """
    first = baseline(result)
    rows = [
        row
        for row in result.results
        if row.model == "own" and (row.mode == "fast" or row.group_size == 1)
    ]
    rows = sorted(rows, key=lambda row: row.group_size)
    if not rows or rows[-1].group_size == 1 or kept(rows[-1], first, "rouge_l") is None:
        raise UsageError(
            "the picture shows quality against K: measure mode fast, K above 1, with references"
        )
    against = "the autoregressive teacher" if first.model == "teacher" else "K=1"
    figure.text(0.02, 0.945, f"What is kept of {against}", fontsize=14, weight="bold", va="center")
    title = textwrap.shorten(result.name, 80, placeholder=" …")
    figure.text(0.02, 0.88, title, fontsize=10, color=FAINT, va="center")
    _draw_shares(figure.add_axes((0.08, 0.2, 0.5, 0.6)), rows, first)
    _draw_speed(figure.add_axes((0.68, 0.2, 0.3, 0.6)), rows, first)
    threads = result.machine.get("threads")
    where = f"{result.machine.get('cpu')} · {threads} thread{'' if threads == 1 else 's'} · one text at a time"
    figure.text(0.02, 0.02, f"Speed measured on: {where}", fontsize=8, color=FAINT, va="bottom")


def show_kept(
    result: TaskResult,
    path: Path,
    page: Path | None,
    figure: Path | None,
    markdown: bool,
    report: Callable[[str], None],
) -> None:
    """Print the table of a result on stdout; draw it where asked (.svg or .png). Raises
    `UsageError` for a page.
    """
    if page is not None:
        raise UsageError(
            f"{path} is about a task, which has a table and a --figure: leave --page out"
        )
    if markdown:
        print(kept_markdown(result), end="")
    else:
        Console().print(kept_table(result))
    if figure is not None:
        with drawing(*PICTURE_SIZE) as canvas:
            draw_kept(canvas, result)
            save(canvas, figure)
        report(f"written: {figure}")


def _draw_shares(axes: Any, rows: list[TaskMeasurement], first: TaskMeasurement) -> None:
    sizes = [row.group_size for row in rows]
    lowest = 100.0
    for index, (measure, label) in enumerate(MEASURES.items()):
        shares = [kept(row, first, measure) for row in rows]
        values = [100 * share for share in shares if share is not None]
        if len(values) == len(sizes):
            axes.plot(
                sizes,
                values,
                marker="o",
                markersize=5,
                linewidth=1.8,
                color=COLOURS[index],
                label=label,
            )
            lowest = min(lowest, *values)
    axes.axhline(100, color=FAINT, linewidth=0.8, linestyle="--")
    axes.set_ylim(bottom=max(0.0, lowest - 5))
    axes.set_ylabel("Kept (%)", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    _by_group_size(axes, sizes)


def _draw_speed(axes: Any, rows: list[TaskMeasurement], first: TaskMeasurement) -> None:
    known = [(row.group_size, ratio) for row in rows if (ratio := speed_up(row, first)) is not None]
    sizes, ratios = [size for size, _ in known], [ratio for _, ratio in known]
    axes.plot(sizes, ratios, marker="o", markersize=5, linewidth=1.8, color=COLOURS[0])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Times faster", fontsize=10)
    _by_group_size(axes, [row.group_size for row in rows])


def _by_group_size(axes: Any, sizes: list[int]) -> None:
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("Tokens per step (K)", fontsize=10)
    axes.grid(color=GRID, linewidth=0.8)
    tidy(axes)
