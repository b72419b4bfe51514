"""The tables of a benchmark; each says what it was measured on.

A ratio never stands without the engine, the threads and the processor it was measured on.
"""

from __future__ import annotations

from collections.abc import Callable

from multistride.report.cells import ABSENT, Cells, Column, cells_of, figure, milliseconds
from multistride.report.result import Result, Row


def conditions_of(result: Result) -> str:
    """Return what every ratio depends on, in one line: engines, threads, processor."""
    engines = list(dict.fromkeys(f"{row.engine} ({row.precision})" for row in result.rows))
    threads = sorted({row.threads or 1 for row in result.rows})
    cpus = list(dict.fromkeys(str(row.cpu) for row in result.rows))
    shown = ", ".join("1 thread" if count == 1 else f"{count} threads" for count in threads)
    return f"engine {', '.join(engines)}; {shown}; {', '.join(cpus)}"


def heading(result: Result) -> str:
    """Return the name and the conditions of a benchmark: a ratio is worth nothing without them."""
    settings = result.conditions
    return (
        f"{result.name} ({settings.get('shape', 'shape unknown')}): {conditions_of(result)}. "
        f"Greedy, {settings.get('sentences')} sentences, median of {settings.get('rounds')} rounds."
    )


def benchmark_tables(result: Result, brief: bool = False) -> list[Cells]:
    """Return the table of our rows and, if there are any, that of the baselines."""
    rows = rows_table(result, brief)
    own = Cells(rows.headings, rows.numeric, rows.rows, rows.meanings, title=heading(result))
    return [own, baselines_table(result, brief)] if result.baselines else [own]


def rows_table(result: Result, brief: bool = False) -> Cells:
    """Return our own rows: time, ratios, quality, memory, bandwidth.

    Engine and mode have a column where rows differ in them; else the heading names them. If not
    `brief`, ratios have their spread.
    """
    columns = [_BATCH]
    if len({row.engine for row in result.rows}) > 1:
        columns.append(_ENGINE)
    if len({row.mode for row in result.rows}) > 1:
        columns.append(_MODE)
    columns += [_K, _TIME, *(_ratio_column(name, brief) for name in result.baseline_names)]
    return cells_of([*columns, *_MEASURES], [(row, None) for row in result.rows], brief)


def baselines_table(result: Result, brief: bool = False) -> Cells:
    """Return what the ratios are taken to: time, quality, memory, bandwidth."""

    def name(row: Row, other: Row | None) -> str | None:
        engines = {each.engine for each in result.baselines if each.name == row.name}
        return f"{row.name} ({row.engine})" if len(engines) > 1 else row.name

    named = Column("baseline", "The program compared with.", name, numeric=False)
    pairs: list[tuple[Row, Row | None]] = [(row, None) for row in result.baselines]
    return cells_of([_BATCH, named, _TIME, *_MEASURES], pairs, brief)


def ratios_table(result: Result, baseline: str) -> Cells:
    """Return how many times as fast as one baseline: batch sizes down, K across."""
    sizes = list(dict.fromkeys(row.group_size for row in result.rows))
    found = {(row.engine, row.mode, row.batch_size, row.group_size): row for row in result.rows}
    ways = dict.fromkeys((row.engine, row.mode, row.batch_size) for row in result.rows)
    show = _ratio(baseline, brief=False)
    return Cells(
        ["engine", "mode", "batch", *(f"K={size}" for size in sizes)],
        [False, False, True, *(True for _ in sizes)],
        [
            [way[0], way[1], f"{way[2]}"]
            + [
                (show(found[*way, size], None) if (*way, size) in found else None) or ABSENT
                for size in sizes
            ]
            for way in ways
        ],
    )


def crossing_lines(result: Result) -> list[str]:
    """Return where the gain ends, one line for each baseline and way of decoding."""
    lines = []
    for name in dict.fromkeys(crossing.baseline for crossing in result.crossings):
        for engine, mode in dict.fromkeys((row.engine, row.mode) for row in result.rows):
            here = [
                each
                for each in result.crossings
                if (each.baseline, each.engine, each.mode) == (name, engine, mode)
            ]
            slower = [
                f"K={each.group_size} at batch {each.batch_size}"
                for each in here
                if each.batch_size
            ]
            never = [f"K={each.group_size}" for each in here if not each.batch_size]
            parts = [", ".join(slower)] if slower else []
            if never:
                parts.append(f"at no batch size for {_listed(never)}")
            lines.append(f"Slower than {name} ({engine}, {mode}): {'; '.join(parts)}.")
    return lines


def _listed(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def benchmark_markdown(result: Result) -> str:
    """Return heading, tables, where the gain ends and the BLEU signature in Markdown."""
    signatures = dict.fromkeys(row.bleu_signature for row in result.rows if row.bleu_signature)
    parts = [heading(result) + "\n", *(cells.markdown() for cells in benchmark_tables(result))]
    if lines := crossing_lines(result):
        parts.append("".join(f"- {line}\n" for line in lines))
    parts += [f"BLEU `{signature}`\n" for signature in signatures]
    return "\n".join(parts)


def _ratio(name: str, brief: bool) -> Callable[[Row, Row | None], str | None]:
    def show(row: Row, other: Row | None) -> str | None:
        if name not in row.ratio_to:
            return None
        if brief:
            return f"{row.ratio_to[name]:.2f}"
        if name not in row.ratio_spread:
            return f"{row.ratio_to[name]:.2f}"
        low, high = row.ratio_spread[name]
        return f"{row.ratio_to[name]:.2f} ({low:.2f}–{high:.2f})"

    return show


def _ratio_column(name: str, brief: bool) -> Column:
    return Column(f"× {name}", f"Times as fast as {name}.", _ratio(name, brief))


def _hidden(column: Column) -> Column:
    return Column(column.heading, column.meaning, column.show, column.numeric, brief=False)


_BATCH = figure("batch", "Sentences decoded together.", "batch_size", ".0f")
_ENGINE = Column("engine", "The inference engine.", lambda row, _: row.engine, False)
_MODE = Column("mode", "How the tokens of a step are accepted.", lambda row, _: row.mode, False)
_K = figure("K", "Tokens per step.", "group_size", ".0f")
_TIME = Column(
    "ms/sentence",
    "Milliseconds per sentence in the median round.",
    lambda row, _: None if row.ms_per_sentence is None else milliseconds(row.ms_per_sentence),
)
_MEASURES = (
    figure("BLEU", "Corpus BLEU by sacreBLEU, 0–100.", "bleu"),
    figure("same as K=1 %", "Tokens are those of greedy K=1.", "identical_to_k1", ".0f", 100),
    figure("tokens/step", "Tokens kept per network step.", "tokens_per_step", ".2f"),
    _hidden(figure("tokens/s", "Tokens written per second.", "tokens_per_second", ",.0f")),
    figure("peak MB", "Largest size of the process (2**20 bytes).", "memory_peak_mb", ",.0f"),
    _hidden(figure("of it libraries", "Before a model was opened.", "memory_libraries_mb", ",.0f")),
    figure("bandwidth %", "Of the memory bandwidth.", "bandwidth_fraction", ".0f", 100),
)
