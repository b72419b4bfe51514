"""The tables of every kind of result: which columns it has, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from multistride.data.pieces import GROUP_BAR, LINK
from multistride.report.benchmark import benchmark_markdown, benchmark_tables, crossing_lines
from multistride.report.cells import Cells, Column, cells_of, figure, milliseconds
from multistride.report.result import Kind, Output, Result, Row

_GROUP_STYLES = ("bold cyan", "bold yellow")


def tables_of(result: Result, brief: bool = False) -> list[Cells]:
    """Return the tables of a result, the main one first; `brief` ones fit 80 characters."""
    if result.kind == "benchmark":
        return benchmark_tables(result, brief)
    return [main_table(result, brief), *_further(result)]


def main_table(result: Result, brief: bool = False) -> Cells:
    """Return the table of the rows of a result."""
    pairs = [(row, result.baseline(row)) for row in result.rows]
    cells = cells_of(columns_for(result), pairs, brief, keep_empty=result.kind in COLUMNS)
    return Cells(
        cells.headings,
        cells.numeric,
        cells.rows,
        cells.meanings,
        title=_title(result),
        caption=same_decoding(result) if result.kind in ("translation", "phonemes") else "",
        after=[f"BLEU `{signature}`" for signature in signatures(result)],
    )


def columns_for(result: Result) -> tuple[Column, ...]:
    """Return the columns of a kind of result.

    In translations mode, beam and engine get a column only where rows differ in them.
    """
    if result.kind == "task":
        return TEXT_TASK if result.task == "generation" else _record_columns(result)
    if result.kind in ("translation", "phonemes"):
        ways = [
            column
            for column, index in ((_MODE, 0), (_BEAM, 1), (_ENGINE, 2))
            if len({row.way[index] for row in result.rows}) > 1
        ]
        return (_K, *ways, *COLUMNS[result.kind])
    if result.kind in COLUMNS:
        return COLUMNS[result.kind]
    return _free_columns(result)


def signatures(result: Result) -> list[str]:
    """Return the BLEU signatures of a result, each once, in order."""
    found = [row.bleu_signature or row.details.get("bleu_signature") for row in result.rows]
    return list(dict.fromkeys(str(each) for each in found if each))


def same_decoding(result: Result) -> str:
    """Return the mode, beam and engine that all rows share: "mode fast, beam 1, engine eager"."""
    parts = []
    for name, index in (("mode", 0), ("beam", 1), ("engine", 2)):
        values = {row.way[index] for row in result.rows}
        if len(values) == 1:
            parts.append(f"{name} {values.pop()}")
    return ", ".join(parts)


def terminal(result: Result) -> RenderableType:
    """Return everything that the terminal shows of a result."""
    shown: list[RenderableType] = [
        cells.terminal() for cells in tables_of(result, brief=True) if cells.rows
    ]
    if result.kind == "benchmark":
        shown += map(Text, crossing_lines(result))
    if any(output.groups for example in result.examples for output in example.outputs):
        shown.append(examples_table(result))
    return Group(*shown)


def markdown(result: Result) -> str:
    """Return the table of a result in Markdown, ending with a line break."""
    if result.kind == "benchmark":
        return benchmark_markdown(result)
    heading = _heading(result)
    return (f"{heading}\n\n" if heading else "") + main_table(result).markdown()


def _heading(result: Result) -> str:
    """Return what profiles and start-up times were measured on; other tables stand in a text."""
    told = result.conditions.get
    if result.kind == "profile":
        return (
            f"{told('model')}: engine {told('engine')} ({told('precision')}), "
            f"{told('threads')} thread(s), {told('cpu')}. Milliseconds per sentence (% of all)."
        )
    if result.kind == "startup":
        return (
            f"The model that ships, one line, K={told('group_size')}: {told('threads')} thread(s), "
            f"{told('cpu')}, file caches {told('caches')}. Median of {told('runs')} runs."
        )
    return ""


def examples_table(result: Result) -> Table:
    """Return worked examples: one row per K, a bar between what two steps wrote."""
    caption = "│ separates steps"
    shown = [output for example in result.examples for output in example.outputs]
    if any(LINK in text for output in shown for text in output.group_texts()):
        caption += f"; {LINK} continues the word before it"
    # A box without upright lines: those would look like the bars between steps.
    table = Table(
        caption=Text(caption), caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    several = len({output.mode for output in shown}) > 1
    table.add_column("K, mode" if several else "K", justify="right")
    table.add_column("steps", justify="right")
    table.add_column("written group by group", overflow="fold")
    for example in result.examples:
        table.add_row("", "", Text(f"source     {example.source}", style="bold"))
        if example.reference is not None:
            table.add_row("", "", Text(f"reference  {example.reference}"))
        for index, output in enumerate(example.outputs):
            last = index == len(example.outputs) - 1
            steps = str(len(output.groups))
            way = f"{output.group_size} {output.mode if several else ''}".rstrip()
            table.add_row(way, steps, _grouped(output), end_section=last)
    return table


def _grouped(output: Output) -> Text:
    """Return the groups of one output, in alternating styles with a bar between them."""
    text = Text()
    for index, group in enumerate(output.group_texts()):
        if index:
            text.append(GROUP_BAR, style="dim")
        text.append(group, style=_GROUP_STYLES[index % len(_GROUP_STYLES)])
    return text


def _title(result: Result) -> str:
    if result.kind == "task" and result.task != "generation":
        return f"{result.name}: {result.task}, {result.conditions.get('records')} records"
    return result.name


def kept(row: Row, other: Row | None, name: str) -> float | None:
    """Return a figure as a share of the compared row's; None where one is missing or that is 0."""
    own, theirs = row.value(name), other.value(name) if other else None
    return own / theirs if own is not None and theirs else None


def speed_up(row: Row, other: Row | None) -> float | None:
    """Return how many times less time one input takes (median) than in the compared row."""
    if other is None or row.latency is None or other.latency is None or not row.latency[0]:
        return None
    return other.latency[0] / row.latency[0]


def _kept(name: str) -> Column:
    def show(row: Row, other: Row | None) -> str | None:
        share = kept(row, other, name)
        return None if share is None else f"{100 * share:.1f}"

    label = {"bleu": "% of K=1", "rouge_l": "% kept"}[name]
    measure = {"bleu": "BLEU", "rouge_l": "ROUGE-L"}[name]
    return Column(label, f"{measure} as a percentage of that of the row compared with.", show)


def _speed(row: Row, other: Row | None) -> str | None:
    ratio = speed_up(row, other)
    return None if ratio is None else f"{ratio:.2f}×"


def _latency(unit: str) -> Column:
    def show(row: Row, other: Row | None) -> str | None:
        if row.latency is None:
            return None
        return f"{milliseconds(row.latency[0])} ({milliseconds(row.latency[1])})"

    meaning = f"Milliseconds per {unit} alone: median and 95th percentile."
    return Column(f"ms/{unit} p50 (p95)", meaning, show)


def _hidden(column: Column) -> Column:
    """Return a column that Markdown has and the terminal does not."""
    return Column(column.heading, column.meaning, column.show, column.numeric, brief=False)


_K = Column(
    "K", "Tokens per step; 1 is an ordinary Transformer.", lambda row, _: f"{row.group_size}"
)
_MODE = Column("mode", "How the tokens of a step are accepted.", lambda row, _: row.mode, False)
_BEAM = Column("beam", "Hypotheses kept; 1 is greedy.", lambda row, _: f"{row.beam}")
_ENGINE = Column("engine", "The inference engine.", lambda row, _: row.engine, False)
_NAME = Column("name", "Of the entry.", lambda row, _: row.name, False)
_WHOSE = Column(
    "model",
    "This model, or the autoregressive teacher.",
    lambda row, _: "teacher" if row.model == "teacher" else "this",
    False,
)
_BLEU = figure("BLEU", "Corpus BLEU by sacreBLEU, 0–100; higher is better.", "bleu")
_PER_STEP = figure("tokens/step", "Tokens kept per network step.", "tokens_per_step", ".2f")
_PER_SECOND = figure("tokens/s", "Tokens written per second.", "tokens_per_second", ",.0f")
_SPEED_UP = Column("speed up", "Median time of the row compared with over this row's.", _speed)
_REPEATS = figure(
    "repeats %",
    "Tokens equal to the token just before them; lower is better.",
    "repetition_rate",
    times=100,
)
_SAME = figure(
    "same as K=1 %",
    "Outputs whose tokens are exactly those of greedy K=1.",
    "identical_to_k1",
    times=100,
)
_DISTINCT = figure("distinct-2 %", "Different pairs of tokens per pair.", "distinct_2", times=100)
_PERPLEXITY = figure("perplexity", "Per token; lower is better.", "perplexity")

COLUMNS: dict[Kind, tuple[Column, ...]] = {
    "translation": (
        _BLEU,
        _kept("bleu"),
        figure("chrF", "Character n-gram score, 0–100; higher is better.", "chrf"),
        figure("steps/sentence", "Network steps per sentence.", "steps_per_sentence"),
        _PER_STEP,
        _latency("sentence"),
        _SPEED_UP,
        _PER_SECOND,
        _REPEATS,
        _SAME,
    ),
    "phonemes": (
        figure(
            "phoneme error rate %",
            "Wrong, missing and extra phonemes per reference phoneme; lower is better.",
            "token_error_rate",
            times=100,
        ),
        figure(
            "word accuracy %",
            "Words with every phoneme right; higher is better.",
            "exact_match",
            times=100,
        ),
        _BLEU,
        figure("steps/word", "Network steps per word.", "steps_per_sentence", ".2f"),
        _PER_STEP,
        _latency("word"),
        _PER_SECOND,
    ),
    "generation": (
        _K,
        _MODE,
        _PERPLEXITY,
        _PER_STEP,
        Column(
            "ms/text p50 (p95)",
            "Milliseconds per text alone: median and 95th percentile.",
            lambda row, _: (
                f"{row.latency[0]:,.0f} ({row.latency[1]:,.0f})" if row.latency else None
            ),
        ),
        _SPEED_UP,
        _PER_SECOND,
        _REPEATS,
        figure(
            "repeated 4-grams %",
            "Runs of four tokens that the same text had before.",
            "repeated_4_grams",
            times=100,
        ),
        _DISTINCT,
        _SAME,
    ),
    "frontier": (
        Column("series", "The policy.", lambda row, _: row.name, False),
        _K,
        _BLEU,
        figure("steps/sentence", "Network steps per sentence.", "steps_per_sentence", ".2f"),
        _REPEATS,
    ),
    "startup": (
        _ENGINE,
        Column(
            "first translation after s",
            "Seconds from the start of the process to its first line: median (least to most).",
            lambda row, _: (
                f"{row.seconds:.2f} ({row.seconds_spread[0]:.2f}–{row.seconds_spread[1]:.2f})"
                if row.seconds is not None and row.seconds_spread
                else None
            ),
        ),
        figure(
            "peak MB", "The largest size of the process (2**20 bytes).", "memory_peak_mb", ",.0f"
        ),
    ),
}

TEXT_TASK: tuple[Column, ...] = (
    _WHOSE,
    _K,
    _MODE,
    figure(
        "ROUGE-L", "Longest common subsequence of words with the reference.", "rouge_l", times=100
    ),
    _kept("rouge_l"),
    _hidden(figure("ROUGE-2", "Pairs of words of the reference.", "rouge_2", times=100)),
    _hidden(_BLEU),
    figure("concepts %", "Concepts that the text has.", "concept_coverage", times=100),
    _hidden(figure("length", "Words per word of the reference.", "length_ratio", ".2f")),
    _REPEATS,
    _hidden(_DISTINCT),
    _hidden(figure("self-BLEU %", "How alike the texts are.", "self_bleu", times=100)),
    _hidden(_PERPLEXITY),
    _PER_STEP,
    _hidden(_latency("text")),
    _SPEED_UP,
    _hidden(figure("same as K=1 %", "Texts equal to those of K=1.", "same_as_k1", times=100)),
)


def _record_columns(result: Result) -> tuple[Column, ...]:
    """Return the columns of a task over records: all its figures."""
    names = list(result.rows[0].metrics)
    figures = [figure(name, "A figure of this task.", name, ".4g") for name in names]
    rate = figure("records/s", "Records answered per second.", "records_per_second", ".4g")
    return (_K, _MODE, *figures, rate)


def _free_columns(result: Result) -> tuple[Column, ...]:
    """Return the columns of a profile or of a script's own form: all its figures."""
    if result.kind == "profile":
        return profile_columns(result)
    names = dict.fromkeys(name for row in result.rows for name in row.metrics)
    return (_NAME, *(figure(name, "A figure of the script.", name, ".4g") for name in names))


def profile_columns(result: Result) -> tuple[Column, ...]:
    """Return one column for every part of the time, in milliseconds and per cent of the whole."""
    found = dict.fromkeys(name for row in result.rows for name in row.metrics)
    names = [*(name for name in found if name != "all"), "all"]
    batch = figure("batch", "Sentences decoded together.", "batch_size", ".0f")
    return (batch, _K, *map(_part, names))


def _part(name: str) -> Column:
    def show(row: Row, other: Row | None) -> str | None:
        value, whole = row.metrics.get(name), row.metrics.get("all")
        if value is None:
            return None
        share = "" if name == "all" or not whole else f" ({100 * value / whole:.0f})"
        return milliseconds(value) + share

    return Column(name, "Milliseconds per sentence, and per cent of all.", show)


PLACE_MEASURES: tuple[tuple[str, str, str, str, float], ...] = (
    (
        "accuracy %",
        "Tokens equal to the reference's, which the model is given up to the group; higher is "
        "better.",
        "accuracy",
        ".1f",
        100,
    ),
    (
        "confidence %",
        "Mean probability of the chosen token; it equals the accuracy where the model is "
        "calibrated.",
        "confidence",
        ".1f",
        100,
    ),
    (
        "cross-entropy",
        "Nats per token of the reference; lower is better.",
        "cross_entropy",
        ".2f",
        1,
    ),
    ("entropy", "Nats; how undecided the model is between tokens.", "entropy", ".2f", 1),
    (
        "calibration error %",
        "Expected calibration error: mean distance of confidence and accuracy over 15 bins of "
        "confidence; 0 is calibrated.",
        "calibration_error",
        ".1f",
        100,
    ),
)
"""Heading, meaning, field, format and factor of each measure of a position."""


def places_table(result: Result) -> Cells:
    """Return a row per K and measure, with a cell for each position in the group."""
    sizes = sorted({row.group_size for row in result.places})
    places = range(1, max((row.place for row in result.places), default=0) + 1)
    rows = []
    for size in sizes:
        of_size = {row.place: row for row in result.places if row.group_size == size}
        for heading, _, field, form, times in PLACE_MEASURES:
            found = [
                getattr(of_size[place], field) if place in of_size else None for place in places
            ]
            cells = ["" if value is None else format(times * value, form) for value in found]
            rows.append([str(size), heading, *cells])
    return Cells(
        ["K", "at position", *map(str, places)],
        [True, False, *(True for _ in places)],
        rows,
        title="By position in the group, given the reference before it",
        sections=len(PLACE_MEASURES),
    )


def _further(result: Result) -> list[Cells]:
    """Return the tables beside the main one: places, classes, lengths."""
    tables = [places_table(result)] if result.places else []
    details = result.rows[0].details
    return tables + (class_tables(details) if "by_class" in details else [])


def class_tables(details: Mapping[str, Any]) -> list[Cells]:
    """Return precision, recall and F1 of every class, and accuracy by length of the documents."""
    classes = [
        [
            row["class"],
            *(f"{row[name]:.3f}" for name in ("precision", "recall", "f1")),
            f"{row['records']:,}",
        ]
        for row in details["by_class"]
    ]
    lengths = [
        [
            f"{row['words_from']:,} to {row['words_to']:,}",
            f"{row['accuracy']:.3f}",
            f"{row['records']:,}",
        ]
        for row in details.get("by_length", ())
    ]
    by_class = ["class", "precision", "recall", "F1", "documents"]
    return [
        Cells(by_class, [False, *[True] * 4], classes, title="By class"),
        Cells(["words", "accuracy", "documents"], [True] * 3, lengths, title="By length"),
    ]


def calibration_table(calibration: Mapping[str, Any]) -> Cells:
    """Return the calibration error of every position, before and after calibration.

    "ECE" is the expected calibration error.
    """
    truth = "the model's own K=1" if calibration["truth"] == "own-k1" else "the reference"
    headings = ["layout", "K", "pos.", "accuracy %", "confidence %", "ECE %"]
    after = ["temp.", "shift", "ECE % after", "tokens"]
    rows: list[Sequence[str]] = []
    for row in calibration["places"]:
        names = ("right", "confidence", "error_before", "error_after")
        shares = [f"{100 * row[name]:.1f}" if row["tokens"] else "-" for name in names]
        rows.append(
            [
                row["layout"],
                str(row["group_size"]),
                str(row["place"]),
                *shares[:3],
                f"{row['temperature']:.2f}",
                f"{row['shift']:+.2f}",
                shares[3],
                f"{row['tokens']:,}",
            ]
        )
    return Cells(
        [*headings, *after], [False, *[True] * 9], rows, title=f"Confidence, judged by {truth}"
    )
