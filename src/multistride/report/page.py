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
from multistride.report.cells import milliseconds
from multistride.report.drawing import check_drawing
from multistride.report.plots import plot
from multistride.report.result import Result, Row
from multistride.report.tables import (
    PLACE_MEASURES,
    kept,
    main_table,
    places_table,
    same_decoding,
    signatures,
    speed_up,
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


def check_page() -> None:
    """Raise `MissingExtraError` without jinja2 or matplotlib."""
    if jinja2 is None:
        raise MissingExtraError(
            "the page needs jinja2, which is not installed: pip install 'multistride[report]'"
        )
    check_drawing()


def write_page(result: Result, destination: Path | str, commands: Sequence[str] = ()) -> None:
    """Write `result` as one self-contained HTML page to `destination`, whole or not at all.

    `commands` are shell lines shown under "Reproduce it, and what to try next", in order.
    Every text of the result is escaped: it came from data and may hold markup.

    Raises `MissingExtraError` without jinja2 or matplotlib, `UserError` when the file cannot be
    written.
    """
    check_page()
    source = files("multistride.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    cells = main_table(result)
    html = environment.from_string(source).render(
        result=result,
        created=readable_time(result.created or ""),
        glance=glance(result),
        decoding=same_decoding(result),
        # Not escaped again: `html` escapes every text, and the text in the SVG is escaped or paths.
        table=markupsafe.Markup(cells.html()),
        meanings=list(zip(cells.headings, cells.meanings, strict=True)),
        places=markupsafe.Markup(places_table(result).html()) if result.places else "",
        place_measures=[measure[:2] for measure in PLACE_MEASURES],
        signatures=signatures(result),
        figure=markupsafe.Markup(plot(result)),
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


def glance(result: Result) -> str:
    """Return what the fastest row above K=1 gains and keeps; "" without a K=1 row."""
    larger = [row for row in result.rows if row.group_size > 1 and row.latency]
    row = min(larger, key=lambda row: row.latency or (0.0, 0.0), default=None)
    baseline = result.baseline(row) if row else None
    ratio = speed_up(row, baseline) if row else None
    if row is None or baseline is None or ratio is None or not (row.latency and baseline.latency):
        return ""
    way = f" ({row.mode}, beam {row.beam}, {row.engine})" if result.several_ways else ""
    pace = (
        f"The fastest K above 1 is {row.group_size}{way}: {milliseconds(row.latency[0])} ms per "
        f"{result.unit} (median) against {milliseconds(baseline.latency[0])} ms at K=1, "
        f"{ratio:.2f} times as fast."
    )
    if result.kind == "phonemes":
        own, theirs = (100 * (each.token_error_rate or 0) for each in (row, baseline))
        return f"{pace} The phoneme error rate is {own:.1f} % against {theirs:.1f} %."
    share = kept(row, baseline, "bleu")
    if share is None:
        return pace
    scores = f"{row.bleu:.1f} of {baseline.bleu:.1f}"
    return f"{pace} It keeps {100 * share:.1f} % of the BLEU, {scores}."


def figure_text(result: Result) -> str:
    """Return the picture in words, for readers who cannot see it."""
    points = "; ".join(_point_text(result, row) for row in result.rows)
    return f"Quality against median time per {result.unit}, one point per K. {points}."


def readable_time(created: str) -> str:
    """Return an ISO 8601 time for a reader: "13 November 2026, 14:02 UTC"."""
    time = datetime.fromisoformat(created)
    return f"{time.day} {_MONTHS[time.month - 1]} {time:%Y, %H:%M %Z}".rstrip()


def readable_settings(result: Result) -> list[tuple[str, str]]:
    """Return names and values of the settings as text, in the order they were recorded."""
    return [
        (name.replace("_", " "), value if isinstance(value, str) else _plain(value))
        for name, value in result.conditions.items()
    ]


def _point_text(result: Result, row: Row) -> str:
    quality = (
        f"{100 * (1 - (row.token_error_rate or 0)):.1f} % phoneme accuracy"
        if result.kind == "phonemes"
        else f"{row.bleu or 0:.1f} BLEU"
    )
    return f"K={row.group_size}: {milliseconds(row.latency[0] if row.latency else 0)} ms, {quality}"


def _plain(value: object) -> str:
    """Return a JSON value for a reader: thousands separated, yes and no, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return json.dumps(value, ensure_ascii=False)
