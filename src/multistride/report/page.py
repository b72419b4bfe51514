"""The page of a report: table, picture, worked examples and settings in one HTML file.

The file needs nothing beside it and no network. Writing one needs jinja2 and matplotlib; the module
imports without them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from multistride.data.pieces import LINK
from multistride.errors import MissingExtraError
from multistride.files import replacing_file
from multistride.report.figures import quality_latency_figure
from multistride.report.places import MEASURES, place_rows
from multistride.report.results import EvaluationResult, Measurement
from multistride.report.tables import (
    bleu_kept,
    columns_for,
    milliseconds,
    same_decoding,
    signatures,
    speed_up,
    table_rows,
)

try:
    import jinja2
    import markupsafe
except ImportError:  # write_page says so; tables are made without it
    jinja2 = None  # type: ignore[assignment]

# Named here because strftime would follow the locale of whoever makes the page.
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def write_page(
    result: EvaluationResult, destination: Path | str, commands: Sequence[str] = ()
) -> None:
    """Write `result` as one self-contained HTML page to `destination`, whole or not at all.

    `commands` are shell lines shown under "Reproduce it, and what to try next", in order.
    Every text of the result is escaped: it came from data and may hold markup.

    Raises `MissingExtraError` without jinja2 or matplotlib, `UserError` when the file cannot be
    written.
    """
    if jinja2 is None:
        raise MissingExtraError(
            "the page needs jinja2, which is not installed; install it with: pip install 'multistride[report]'"
        )
    source = files("multistride.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.from_string(source).render(
        result=result,
        created=readable_time(result.created),
        glance=glance(result),
        decoding=same_decoding(result),
        columns=columns_for(result),
        rows=table_rows(result),
        places=place_rows(result) if result.places else [],
        place_measures=[(heading, meaning) for heading, meaning, _ in MEASURES],
        signatures=signatures(result),
        # The only text that is not escaped: the SVG drawn here, whose own text is escaped or paths.
        figure=markupsafe.Markup(quality_latency_figure(result)),
        figure_text=figure_text(result),
        link=LINK,
        has_links=any(
            LINK in text
            for example in result.examples
            for output in example.outputs
            for text in output.group_texts()
        ),
        settings=readable_settings(result),
        commands=commands,
    )
    with replacing_file(destination) as temporary:
        temporary.write_text(html, encoding="utf-8")


def glance(result: EvaluationResult) -> str:
    """What the fastest row above K=1 gains and keeps, in a sentence or two; "" without a K=1
    row.
    """
    larger = [row for row in result.results if row.group_size > 1]
    row = min(larger, key=lambda row: row.ms_per_sentence_p50, default=None)
    baseline = row and result.baseline(row)
    ratio = row and speed_up(row, baseline)
    if row is None or baseline is None or ratio is None:
        return ""
    unit = "word" if result.kind == "phonemes" else "sentence"
    way = f" ({row.mode}, beam {row.beam}, {row.engine})" if result.several_ways else ""
    pace = (
        f"The fastest K above 1 is {row.group_size}{way}: {milliseconds(row.ms_per_sentence_p50)} ms per {unit} "
        f"(median) against {milliseconds(baseline.ms_per_sentence_p50)} ms at K=1, {ratio:.2f} times as fast."
    )
    if result.kind == "phonemes":
        rates = (
            f"{100 * row.token_error_rate:.1f} % against {100 * baseline.token_error_rate:.1f} %"
        )
        return f"{pace} The phoneme error rate is {rates}."
    kept = bleu_kept(row, baseline)
    if kept is None:
        return pace
    return f"{pace} It keeps {100 * kept:.1f} % of the BLEU, {row.bleu:.1f} of {baseline.bleu:.1f}."


def figure_text(result: EvaluationResult) -> str:
    """The picture in words, for readers who cannot see it."""
    unit = "word" if result.kind == "phonemes" else "sentence"
    points = "; ".join(_point_text(result, row) for row in result.results)
    return f"Quality against median time per {unit}, one point per K. {points}."


def readable_time(created: str) -> str:
    """An ISO 8601 time for a reader: "13 November 2026, 14:02 UTC"."""
    time = datetime.fromisoformat(created)
    return f"{time.day} {_MONTHS[time.month - 1]} {time:%Y, %H:%M %Z}".rstrip()


def readable_settings(result: EvaluationResult) -> list[tuple[str, str]]:
    """Names and values of the settings as text, in the order they were recorded."""
    return [
        (name.replace("_", " "), value if isinstance(value, str) else _plain(value))
        for name, value in result.settings.items()
    ]


def _point_text(result: EvaluationResult, row: Measurement) -> str:
    quality = (
        f"{100 * (1 - row.token_error_rate):.1f} % phoneme accuracy"
        if result.kind == "phonemes"
        else f"{row.bleu:.1f} BLEU"
    )
    return f"K={row.group_size}: {milliseconds(row.ms_per_sentence_p50)} ms, {quality}"


def _plain(value: object) -> str:
    """A JSON value for a reader: thousands separated, yes and no, nothing as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return json.dumps(value, ensure_ascii=False)
