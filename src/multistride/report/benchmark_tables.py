"""The tables of a benchmark, in Markdown and for the terminal; each says what it was measured on.

Pages hold such tables between marks, and `filled` makes them again from the result files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from multistride.errors import DataError
from multistride.report.benchmark import (
    BaselineRow,
    BenchmarkResult,
    BenchmarkRow,
    Timing,
    read_benchmark,
)
from multistride.report.profile import profile_markdown, read_profile
from multistride.report.results import read_results
from multistride.report.startup import read_startups, startup_markdown
from multistride.report.tables import ABSENT, markdown_line, markdown_table, milliseconds, narrow

_MARK = re.compile(
    r"(<!-- (bench|ratios|baselines|table|parts|startup) (\S+)(?: (\S+))? -->\n).*?(<!-- end -->)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Cells:
    """A table as text: headings, which of them stand over numbers, rows."""

    headings: list[str]
    numeric: list[bool]
    rows: list[list[str]]

    def markdown(self) -> str:
        """As Markdown, ending with a line break."""
        marks = ["--:" if number else ":--" for number in self.numeric]
        return "\n".join(map(markdown_line, [self.headings, marks, *self.rows])) + "\n"

    def rich(self) -> Table:
        """For the terminal; headings are broken where their cells are narrower."""
        table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
        for heading, number, *cells in zip(self.headings, self.numeric, *self.rows, strict=True):
            broken = narrow(heading.replace("-", "- "), max(len(cell) for cell in cells)).replace(
                "- ", "-"
            )
            table.add_column(Text(broken), justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


def heading(result: BenchmarkResult) -> str:
    """What was measured on what: a ratio is worth nothing without it."""
    settings = result.settings
    return (
        f"{result.name} ({settings.get('shape', 'shape unknown')}): {result.conditions}. "
        f"Greedy, {settings.get('sentences')} sentences, median of {settings.get('rounds')} rounds."
    )


def rows_table(result: BenchmarkResult, brief: bool = False) -> Cells:
    """Our own rows: time, ratios, quality, memory, bandwidth; if not `brief`, with the spread of
    the ratios.

    Engine and mode have a column where rows differ in them; else the heading names them.
    """
    rows = result.results
    columns: list[tuple[str, bool, Callable[[BenchmarkRow], str]]] = [
        ("batch", True, lambda row: f"{row.batch_size}")
    ]
    if len({row.engine for row in rows}) > 1:
        columns.append(("engine", False, lambda row: row.engine))
    if len({row.mode for row in rows}) > 1:
        columns.append(("mode", False, lambda row: row.mode))
    columns.append(("K", True, lambda row: f"{row.group_size}"))
    columns.append(("ms/sentence", True, lambda row: milliseconds(row.ms_per_sentence)))
    columns += [(f"× {name}", True, _ratio_to(name, brief)) for name in result.baseline_names]
    cells = _measures(rows, brief)
    return Cells(
        [name for name, _, _ in columns] + cells.headings,
        [number for _, number, _ in columns] + cells.numeric,
        [
            [show(row) for _, _, show in columns] + rest
            for row, rest in zip(rows, cells.rows, strict=True)
        ],
    )


def baselines_table(result: BenchmarkResult, brief: bool = False) -> Cells:
    """What the ratios are taken to: time, quality, memory, bandwidth."""
    rows = result.baselines
    cells = _measures(rows, brief)
    return Cells(
        ["batch", "baseline", "ms/sentence", *cells.headings],
        [True, False, True, *cells.numeric],
        [
            [
                f"{row.batch_size}",
                _baseline_name(row, result),
                milliseconds(row.ms_per_sentence),
                *rest,
            ]
            for row, rest in zip(rows, cells.rows, strict=True)
        ],
    )


def ratios_table(result: BenchmarkResult, baseline: str) -> Cells:
    """How many times as fast as one baseline: batch sizes down, K across, one block of rows a way
    of decoding.
    """
    sizes = list(dict.fromkeys(row.group_size for row in result.results))
    found = {(row.engine, row.mode, row.batch_size, row.group_size): row for row in result.results}
    ways = dict.fromkeys((row.engine, row.mode, row.batch_size) for row in result.results)
    return Cells(
        ["engine", "mode", "batch", *(f"K={size}" for size in sizes)],
        [False, False, True, *(True for _ in sizes)],
        [
            [way[0], way[1], f"{way[2]}"]
            + [
                _ratio_to(baseline, False)(found[*way, size]) if (*way, size) in found else ABSENT
                for size in sizes
            ]
            for way in ways
        ],
    )


def crossing_lines(result: BenchmarkResult) -> list[str]:
    """Where the gain ends, one line a baseline and way of decoding."""
    lines = []
    for name in dict.fromkeys(crossing.baseline for crossing in result.crossings):
        for engine, mode in dict.fromkeys((row.engine, row.mode) for row in result.results):
            here = [
                f"K={each.group_size} {f'at batch {each.batch_size}' if each.batch_size else 'nowhere measured'}"
                for each in result.crossings
                if (each.baseline, each.engine, each.mode) == (name, engine, mode)
            ]
            lines.append(f"Slower than {name} ({engine}, {mode}): {', '.join(here)}.")
    return lines


def benchmark_markdown(result: BenchmarkResult) -> str:
    """All of it in Markdown: heading, rows, baselines, where the gain ends, the BLEU signature."""
    signatures = dict.fromkeys(row.bleu_signature for row in result.results if row.bleu_signature)
    parts = [heading(result) + "\n", rows_table(result).markdown()]
    if result.baselines:
        parts.append(baselines_table(result).markdown())
    if lines := crossing_lines(result):
        parts.append("".join(f"- {line}\n" for line in lines))
    parts += [f"BLEU `{signature}`\n" for signature in signatures]
    return "\n".join(parts)


def benchmark_tables(result: BenchmarkResult) -> Group:
    """The same for the terminal."""
    parts: list[Table | Text] = [Text(heading(result)), rows_table(result, brief=True).rich()]
    if result.baselines:
        parts.append(baselines_table(result, brief=True).rich())
    return Group(*parts, *map(Text, crossing_lines(result)))


def filled(page: str, root: Path) -> str:
    """A page with every marked table made anew from its result file, whose path is relative to
    `root`.

    Marks are `<!-- bench FILE -->`, `<!-- baselines FILE -->`, `<!-- ratios FILE BASELINE -->`, of
    an evaluation `<!-- table FILE -->`, of a profile `<!-- parts FILE -->`, of start-up times `<!--
    startup FILE -->`, each up to `<!-- end -->`. Where a file is missing the page says so. Raises
    `DataError` for one that is no such result.
    """

    def table(mark: re.Match[str]) -> str:
        begin, kind, path, baseline, end = mark.groups()
        if not (root / path).exists():
            return f"{begin}Not measured yet: `benchmarks/run.sh` writes `{path}`.\n{end}"
        if kind in _WHOLE:
            return begin + _WHOLE[kind](root / path) + end
        result = read_benchmark(root / path)
        if kind == "bench":
            return begin + benchmark_markdown(result) + end
        cells = baselines_table(result)
        if kind == "ratios":
            if baseline not in result.baseline_names:
                raise DataError(
                    f"{path} has no baseline {baseline}; it has {', '.join(result.baseline_names)}: mark another"
                )
            cells = ratios_table(result, baseline)
        return f"{begin}{heading(result)}\n\n{cells.markdown()}{end}"

    return _MARK.sub(table, page)


_WHOLE: dict[str, Callable[[Path], str]] = {
    "table": lambda path: markdown_table(read_results(path)),
    "parts": lambda path: profile_markdown(read_profile(path)),
    "startup": lambda path: startup_markdown(read_startups(path)),
}
"""Files that are shown in one way only."""


def _baseline_name(row: BaselineRow, result: BenchmarkResult) -> str:
    """With its engine where a baseline runs on several of ours."""
    engines = {other.engine for other in result.baselines if other.name == row.name}
    return f"{row.name} ({row.engine})" if len(engines) > 1 else row.name


def _ratio_to(name: str, brief: bool) -> Callable[[BenchmarkRow], str]:
    def show(row: BenchmarkRow) -> str:
        if name not in row.ratio_to:
            return ABSENT
        if brief:
            return f"{row.ratio_to[name]:.2f}"
        low, high = row.ratio_spread[name]
        return f"{row.ratio_to[name]:.2f} ({low:.2f}–{high:.2f})"

    return show


def _measures(rows: Sequence[Timing], brief: bool) -> Cells:
    """The columns that our rows and baselines have in common; those that nobody has are left
    out.
    """
    wide = {"tokens/s", "of it libraries"} if brief else set()
    columns: list[tuple[str, Callable[[Timing], str | None]]] = [
        ("BLEU", lambda row: None if row.bleu is None else f"{row.bleu:.1f}"),
        (
            "same as K=1 %",
            lambda row: None if row.identical_to_k1 is None else f"{100 * row.identical_to_k1:.0f}",
        ),
        ("tokens/step", lambda row: f"{row.tokens_per_step:.2f}"),
        ("tokens/s", lambda row: f"{row.tokens_per_second:,.0f}"),
        (
            "peak MB",
            lambda row: None if row.memory_peak_mb is None else f"{row.memory_peak_mb:,.0f}",
        ),
        (
            "of it libraries",
            lambda row: (
                None if row.memory_libraries_mb is None else f"{row.memory_libraries_mb:,.0f}"
            ),
        ),
        (
            "bandwidth %",
            lambda row: (
                None if row.bandwidth_fraction is None else f"{100 * row.bandwidth_fraction:.0f}"
            ),
        ),
    ]
    shown = [
        (name, show)
        for name, show in columns
        if name not in wide and any(show(row) is not None for row in rows)
    ]
    cells = [[show(row) or ABSENT for _, show in shown] for row in rows]
    return Cells([name for name, _ in shown], [True] * len(shown), cells)
