"""The picture of a report: quality against time per sentence, one point per K, as SVG text.

Drawing needs matplotlib; the module imports without it.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from multistride.report.drawing import COLOURS, FAINT, GRID, drawing, svg_text, tidy
from multistride.report.results import EvaluationResult, Measurement

with suppress(ImportError):  # `drawing` says so
    from matplotlib.transforms import Bbox

# Where a label may stand, in points from its point; the first place that is free is taken.
_PLACES = (
    (-7, 7),
    (7, -16),
    (7, 7),
    (-7, -16),
    (0, 16),
    (0, -26),
    (-12, 24),
    (12, 24),
    (12, -34),
    (0, 34),
)


def quality_latency_figure(result: EvaluationResult) -> str:
    """Quality (up) against median milliseconds per sentence (right), as the text of one `<svg>`.

    One labelled point per row; rows decoded the same way are joined by a line, in order of K.
    Quality is BLEU for translation and phoneme accuracy (100 − phoneme error rate, %) for
    phonemes. The same result always gives the same text.

    Raises `MissingExtraError` without matplotlib.
    """
    with drawing(5.6, 4.3) as figure:
        axes = figure.add_axes((0.125, 0.215, 0.85, 0.6))
        _draw_axes(figure, axes, result)
        _draw_points(axes, result)
        _draw_labels(axes, result)
        return svg_text(figure)


def box_around(x: float, y: float, size: float) -> Any:
    """A square of a size in pixels around a point."""
    return Bbox.from_bounds(x - size / 2, y - size / 2, size, size)


def settings_caption(result: EvaluationResult) -> str:
    """What the times were measured on, in one line; settings that were not recorded are left
    out.
    """
    settings = result.settings
    machine = settings.get("cpu") if settings.get("device", "cpu") == "cpu" else settings["device"]
    parts = [str(part) for part in (machine, settings.get("precision")) if part]
    if settings.get("threads") is not None:
        parts.append("1 thread" if settings["threads"] == 1 else f"{settings['threads']} threads")
    parts.append("batch 1")
    return "Measured on: " + " · ".join(parts)


def _quality(result: EvaluationResult) -> tuple[str, Callable[[Measurement], float]]:
    """The label of the upward axis, and the number a row has on it."""
    if result.kind == "phonemes":
        return "Phoneme accuracy (%)", lambda row: 100 * (1 - row.token_error_rate)
    return "BLEU (0–100)", lambda row: row.bleu


def _series(result: EvaluationResult) -> dict[tuple[str, int, str], list[Measurement]]:
    """Rows by mode, beam and engine, each in order of K; ways of decoding in order of
    appearance.
    """
    series: dict[tuple[str, int, str], list[Measurement]] = {}
    for measurement in result.results:
        series.setdefault(measurement.way, []).append(measurement)
    return {way: sorted(rows, key=lambda row: row.group_size) for way, rows in series.items()}


def _draw_axes(figure: Any, axes: Any, result: EvaluationResult) -> None:
    unit = "word" if result.kind == "phonemes" else "sentence"
    quality_label, _ = _quality(result)
    title = textwrap.shorten(result.name, 60, placeholder=" …")
    figure.text(
        0.02, 0.945, f"Quality against time per {unit}", fontsize=14, weight="bold", va="center"
    )
    figure.text(0.02, 0.885, title, fontsize=10, color=FAINT, va="center")
    caption = textwrap.fill(settings_caption(result), 80, max_lines=2, placeholder=" …")
    figure.text(0.02, 0.015, caption, fontsize=8, color=FAINT, va="bottom", linespacing=1.4)
    axes.set_xlabel(f"Median time per {unit} (ms) — further left is faster", fontsize=10)
    axes.set_ylabel(quality_label, fontsize=10)
    axes.grid(color=GRID, linewidth=0.8)
    tidy(axes)


def _draw_points(axes: Any, result: EvaluationResult) -> None:
    _, quality = _quality(result)
    series = _series(result)
    for index, (way, rows) in enumerate(series.items()):
        mode, beam, engine = way
        axes.plot(
            [row.ms_per_sentence_p50 for row in rows],
            [quality(row) for row in rows],
            marker="o",
            markersize=7,
            linewidth=1.8,
            color=COLOURS[index % len(COLOURS)],
            linestyle=("-", "--", ":")[index // len(COLOURS) % 3],
            label=f"{mode}, beam {beam}, {engine}",
            clip_on=False,
        )
    _set_limits(axes, [quality(row) for row in result.results])
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False, loc="lower right")


def _set_limits(axes: Any, qualities: Sequence[float]) -> None:
    """Time starts at zero, so distances compare; quality is zoomed, but never on differences under
    1.
    """
    axes.set_xlim(left=0, right=1.12 * max(axes.get_xlim()[1], 1e-3))
    low, high = min(qualities), max(qualities)
    room = 0.2 * max(high - low, 1.0)
    axes.set_ylim(low - room, high + room)


def _drawn(axes: Any, result: EvaluationResult) -> list[Any]:
    """Boxes, in pixels of the canvas, that the legend, the points and the lines between them
    cover.
    """
    _, quality = _quality(result)
    legend = axes.get_legend()
    boxes = [legend.get_window_extent()] if legend else []
    for rows in _series(result).values():
        places = axes.transData.transform([(row.ms_per_sentence_p50, quality(row)) for row in rows])
        boxes += [box_around(x, y, 12) for x, y in places]
        for (left, low), (right, high) in itertools.pairwise(places):
            steps = 1 + int(math.hypot(right - left, high - low) / 4)
            boxes += [
                Bbox.from_bounds(
                    left + (right - left) * step / steps - 2,
                    low + (high - low) * step / steps - 2,
                    4,
                    4,
                )
                for step in range(steps)
            ]
    return boxes


def _draw_labels(axes: Any, result: EvaluationResult) -> None:
    """Write "K=…" beside each point, where it covers no point, line, legend or other label."""
    _, quality = _quality(result)
    taken = _drawn(axes, result)
    for index, rows in enumerate(_series(result).values()):
        for row in rows:
            label = axes.annotate(
                f"K={row.group_size}",
                (row.ms_per_sentence_p50, quality(row)),
                xytext=_PLACES[0],
                textcoords="offset points",
                fontsize=11.5,
                weight="bold",
                color=COLOURS[index % len(COLOURS)],
            )
            taken.append(settle(label, taken, axes.bbox))


def settle(label: Any, taken: Sequence[Any], area: Any) -> Any:
    """Move a label to its first free place, or back to the first of all; its box in pixels."""
    for place in (*_PLACES, _PLACES[0]):
        label.set_position(place)
        label.set_horizontalalignment(
            "left" if place[0] > 0 else "right" if place[0] < 0 else "center"
        )
        box = label.get_window_extent()
        inside = box.x0 >= area.x0 and box.x1 <= area.x1 and box.y0 >= area.y0
        if inside and not any(box.overlaps(other) for other in taken):
            break
    return box
