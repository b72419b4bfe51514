"""The tables of a report: quality and speed by K, and worked examples group by group.

The columns are described once and shown in the terminal, in Markdown and on the page, so the three
cannot disagree.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from multistride.data.pieces import GROUP_BAR, LINK
from multistride.report.results import EvaluationResult, ExampleOutput, Measurement

ABSENT = "–"

_GROUP_STYLES = ("bold cyan", "bold yellow")

Show = Callable[[Measurement, Measurement | None], str]
"""Text of one cell, from its row and the K=1 row it is compared with (None: there is none)."""


@dataclass(frozen=True)
class Column:
    """One column: its heading, what it means in one sentence, and how a row is shown in it.

    Numbers stand to the right of their column, so that digits line up; words to the left.
    """

    heading: str
    meaning: str
    show: Show
    numeric: bool = True


def columns_for(result: EvaluationResult) -> tuple[Column, ...]:
    """The columns that suit the kind of result.

    Mode, beam and engine get a column when the rows differ in them.
    """
    measured = _PHONEME_COLUMNS if result.kind == "phonemes" else _TRANSLATION_COLUMNS
    ways = [
        column
        for column, index in ((_MODE, 0), (_BEAM, 1), (_ENGINE, 2))
        if len({measurement.way[index] for measurement in result.results}) > 1
    ]
    return (_GROUP_SIZE, *ways, *measured)


def table_rows(result: EvaluationResult) -> list[list[str]]:
    """The cells of every row of `result`, in the order of `columns_for(result)`."""
    columns = columns_for(result)
    return [
        [column.show(measurement, result.baseline(measurement)) for column in columns]
        for measurement in result.results
    ]


def same_decoding(result: EvaluationResult) -> str:
    """Mode, beam and engine, as far as all rows share them: "mode fast, beam 1, engine eager"."""
    parts = []
    for name, index in (("mode", 0), ("beam", 1), ("engine", 2)):
        values = {measurement.way[index] for measurement in result.results}
        if len(values) == 1:
            parts.append(f"{name} {values.pop()}")
    return ", ".join(parts)


def quality_table(result: EvaluationResult) -> Table:
    """Quality and speed by K, for the terminal."""
    table = Table(
        title=Text(result.name),
        title_justify="left",
        caption=Text(same_decoding(result)),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    rows = table_rows(result)
    for column, *cells in zip(columns_for(result), *rows, strict=True):
        heading = Text(narrow(column.heading, max(len(cell) for cell in cells)))
        table.add_column(heading, justify="right" if column.numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def markdown_table(result: EvaluationResult) -> str:
    """Quality and speed by K as a Markdown table, with the BLEU signature under it.

    Ends with a line break.
    """
    columns = columns_for(result)
    lines = [
        markdown_line([column.heading for column in columns]),
        markdown_line(["--:" if column.numeric else ":--" for column in columns]),
        *(markdown_line(row) for row in table_rows(result)),
        "",
        *(f"BLEU `{signature}`" for signature in signatures(result)),
    ]
    return "\n".join(lines) + "\n"


def signatures(result: EvaluationResult) -> list[str]:
    """The BLEU signatures of the rows, each once, in order."""
    return list(dict.fromkeys(measurement.bleu_signature for measurement in result.results))


def examples_table(result: EvaluationResult) -> Table:
    """Worked examples for the terminal: one row per K, a bar between what two steps wrote."""
    caption = "│ stands between two steps"
    shown = [output for example in result.examples for output in example.outputs]
    if any(LINK in text for output in shown for text in output.group_texts()):
        caption += f"; {LINK} goes on with the word before it"
    # A box without upright lines: those would look like the bars between steps.
    table = Table(
        caption=Text(caption), caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("K", justify="right")
    table.add_column("steps", justify="right")
    table.add_column("written group by group", overflow="fold")
    for example in result.examples:
        table.add_row("", "", Text(f"source     {example.source}", style="bold"))
        table.add_row("", "", Text(f"reference  {example.reference}"))
        for index, output in enumerate(example.outputs):
            last = index == len(example.outputs) - 1
            steps = str(len(output.groups))
            table.add_row(str(output.group_size), steps, _grouped(output), end_section=last)
    return table


def narrow(heading: str, width: int) -> str:
    """Break a heading at spaces and slashes to the width of its cells, to fit 80 columns of
    terminal.
    """
    words = heading.replace("/", "/ ").split()
    lines = textwrap.wrap(" ".join(words), max(width, *map(len, words)), break_on_hyphens=False)
    return "\n".join(lines).replace("/ ", "/")


def _grouped(output: ExampleOutput) -> Text:
    """The groups of one output, in alternating styles with a bar between them."""
    text = Text()
    for index, group in enumerate(output.group_texts()):
        if index:
            text.append(GROUP_BAR, style="dim")
        text.append(group, style=_GROUP_STYLES[index % len(_GROUP_STYLES)])
    return text


def markdown_line(cells: list[str]) -> str:
    """One row of a Markdown table."""
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def milliseconds(value: float) -> str:
    """A time in about three digits: 0.84, 8.41, 84.1, 841."""
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{decimals}f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _latency(row: Measurement, baseline: Measurement | None) -> str:
    return f"{milliseconds(row.ms_per_sentence_p50)} ({milliseconds(row.ms_per_sentence_p95)})"


def _kept(row: Measurement, baseline: Measurement | None) -> str:
    share = bleu_kept(row, baseline)
    return ABSENT if share is None else _percent(share)


def _speed_up(row: Measurement, baseline: Measurement | None) -> str:
    ratio = speed_up(row, baseline)
    return ABSENT if ratio is None else f"{ratio:.2f}×"


def bleu_kept(row: Measurement, baseline: Measurement | None) -> float | None:
    """BLEU of a row as a share of its K=1 row's; None without one, or when that scored 0."""
    return row.bleu / baseline.bleu if baseline and baseline.bleu else None


def speed_up(row: Measurement, baseline: Measurement | None) -> float | None:
    """How many times less time per sentence (median) than the K=1 row; None when unknown."""
    if baseline is None or not row.ms_per_sentence_p50:
        return None
    return baseline.ms_per_sentence_p50 / row.ms_per_sentence_p50


def _identical(row: Measurement, baseline: Measurement | None) -> str:
    return ABSENT if row.identical_to_k1 is None else _percent(row.identical_to_k1)


_GROUP_SIZE = Column(
    "K",
    "Tokens written per step; 1 is an ordinary Transformer.",
    lambda row, _: f"{row.group_size}",
)
_MODE = Column("mode", "How the tokens of a step are accepted.", lambda row, _: row.mode, False)
_BEAM = Column(
    "beam", "Hypotheses kept while searching; 1 is greedy.", lambda row, _: f"{row.beam}"
)
_ENGINE = Column("engine", "What computed the steps.", lambda row, _: row.engine, False)

_BLEU = Column(
    "BLEU", "Corpus BLEU by sacreBLEU, 0–100; higher is better.", lambda row, _: f"{row.bleu:.1f}"
)
_TOKENS_PER_STEP = Column(
    "tokens/step",
    "Tokens kept per network step, on average.",
    lambda row, _: f"{row.tokens_per_step:.2f}",
)
_SPEED_UP = Column("speed up", "Median time of the K=1 row divided by this row's.", _speed_up)
_TOKENS_PER_SECOND = Column(
    "tokens/s", "Tokens written per second.", lambda row, _: f"{row.tokens_per_second:,.0f}"
)

_PHONEME_COLUMNS = (
    Column(
        "phoneme error rate %",
        "Wrong, missing and extra phonemes per reference phoneme; lower is better.",
        lambda row, _: _percent(row.token_error_rate),
    ),
    Column(
        "word accuracy %",
        "Words with every phoneme right; higher is better.",
        lambda row, _: _percent(row.exact_match),
    ),
    _BLEU,
    Column("steps/word", "Network steps per word.", lambda row, _: f"{row.steps_per_sentence:.2f}"),
    _TOKENS_PER_STEP,
    Column("ms/word p50 (p95)", "Milliseconds per word: median, and 95th percentile.", _latency),
    _TOKENS_PER_SECOND,
)

_TRANSLATION_COLUMNS = (
    _BLEU,
    Column("% of K=1", "BLEU as a percentage of the K=1 row's.", _kept),
    Column(
        "chrF", "Character n-gram score, 0–100; higher is better.", lambda row, _: f"{row.chrf:.1f}"
    ),
    Column(
        "steps/sentence",
        "Network steps per sentence.",
        lambda row, _: f"{row.steps_per_sentence:.1f}",
    ),
    _TOKENS_PER_STEP,
    Column(
        "ms/sentence p50 (p95)", "Milliseconds per sentence: median, and 95th percentile.", _latency
    ),
    _SPEED_UP,
    _TOKENS_PER_SECOND,
    Column(
        "repeats %",
        "Tokens equal to the token just before them; lower is better.",
        lambda row, _: _percent(row.repetition_rate),
    ),
    Column("same as K=1 %", "Sentences whose tokens are exactly those of greedy K=1.", _identical),
)
