"""Pictures of results: quality against time, steps or K, in one style.

Drawing needs matplotlib; the module imports without it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from multistride.errors import UsageError
from multistride.report.benchmark import conditions_of
from multistride.report.drawing import (
    COLOURS,
    EDGE,
    FAINT,
    GRID,
    INK,
    drawing,
    settle,
    svg_text,
    tidy,
    titled,
)
from multistride.report.result import OWN, Result, Row
from multistride.report.tables import kept, speed_up

with suppress(ImportError):  # `drawing` says so
    from matplotlib.transforms import Bbox

_PANELS = 3
"""Batch sizes that are drawn at most: the smallest, the largest, and those between them."""

_MARKERS = "sD^vP"
"""Of baselines, in order."""


def plot(result: Result) -> str:
    """Return the picture that suits a result, as the text of one `<svg>`.

    The same result always gives the same text. Raises `UsageError` for a kind without a picture,
    `MissingExtraError` without matplotlib.
    """
    width, height, draw = plotter(result)
    with drawing(width, height) as figure:
        draw(figure, result)
        return svg_text(figure)


def plotter(result: Result) -> tuple[float, float, Callable[[Any, Result], None]]:
    """Return width and height in inches and what draws a result. Raises `UsageError` for none."""
    if result.kind in ("translation", "phonemes"):
        return 5.6, 4.3, draw_quality_and_time
    if result.kind == "benchmark":
        return 1.2 + 3.4 * len(_drawn_sizes(result)), 4.6, draw_benchmark
    if result.kind == "frontier":
        return 6.4, 4.6, draw_frontier
    if result.kind == "task" and result.task == "generation":
        _check_kept(result)
        return 8.2, 4.2, draw_kept
    if {"confusion", "classes"} <= set(result.rows[0].details):
        side = 2.8 + 0.36 * len(result.rows[0].details["classes"])
        return side, side, draw_confusion
    what = f"task {result.task}" if result.task else f"kind {result.kind}"
    raise UsageError(f"a result of {what} has no picture: leave it out")


def caption(result: Result) -> str:
    """Return what times were measured on, in one line; what was not recorded is left out."""
    settings = result.conditions
    machine = settings.get("cpu") if settings.get("device", "cpu") == "cpu" else settings["device"]
    parts = [str(part) for part in (machine, settings.get("precision")) if part]
    if settings.get("threads") is not None:
        parts.append("1 thread" if settings["threads"] == 1 else f"{settings['threads']} threads")
    return "Measured on: " + " · ".join([*parts, "batch 1"])


def quality(result: Result) -> tuple[str, Callable[[Row], float]]:
    """Return the label of the upward axis, and the number that a row has on it."""
    if result.kind == "phonemes":
        return "Phoneme accuracy (%)", lambda row: 100 * (1 - (row.token_error_rate or 0))
    return "BLEU (0–100)", lambda row: row.bleu or 0


def draw_quality_and_time(figure: Any, result: Result) -> None:
    """Draw quality (up) against median milliseconds (right), one labelled point per row.

    Rows decoded in one way are joined by a line, in order of K.
    """
    label, number = quality(result)
    axes = figure.add_axes((0.125, 0.215, 0.85, 0.6))
    titled(figure, f"Quality against time per {result.unit}", result.name, caption(result))
    axes.set_xlabel(f"Median time per {result.unit} (ms) — further left is faster", fontsize=10)
    axes.set_ylabel(label, fontsize=10)
    axes.grid(color=GRID, linewidth=0.8)
    tidy(axes)
    lines = [
        [(_time(row), number(row), f"K={row.group_size}") for row in rows]
        for rows in _ways(result).values()
    ]
    for index, (way, line) in enumerate(zip(_ways(result), lines, strict=True)):
        mode, beam, engine = way
        axes.plot(
            [x for x, _, _ in line],
            [y for _, y, _ in line],
            marker="o",
            markersize=7,
            linewidth=1.8,
            color=COLOURS[index % len(COLOURS)],
            linestyle=("-", "--", ":")[index // len(COLOURS) % 3],
            label=f"{mode}, beam {beam}, {engine}",
            clip_on=False,
        )
    _set_limits(axes, [y for line in lines for _, y, _ in line])
    if len(lines) > 1:
        axes.legend(fontsize=8, frameon=False, loc="best")  # over as few points as may be
    _label(axes, lines)


Point = tuple[float, float, str]
"""Right, up, and what is written beside it."""


def _time(row: Row) -> float:
    return row.latency[0] if row.latency else 0.0


def _ways(result: Result) -> dict[tuple[str, int, str], list[Row]]:
    """Return rows by mode, beam and engine, each in order of K."""
    ways: dict[tuple[str, int, str], list[Row]] = {}
    for row in result.rows:
        ways.setdefault(row.way, []).append(row)
    return {way: sorted(rows, key=lambda row: row.group_size) for way, rows in ways.items()}


def _set_limits(axes: Any, qualities: Sequence[float]) -> None:
    """Start time at zero, so that distances compare; never zoom on differences of quality below
    1.
    """
    axes.set_xlim(left=0, right=1.12 * max(axes.get_xlim()[1], 1e-3))
    low, high = min(qualities), max(qualities)
    room = 0.2 * max(high - low, 1.0)
    axes.set_ylim(low - room, high + room)


def _label(axes: Any, lines: Sequence[Sequence[Point]]) -> None:
    """Write labels beside points, where they cover no point, line, legend or other label."""
    taken = _covered(axes, lines)
    for index, line in enumerate(lines):
        for x, y, text in line:
            label = axes.annotate(
                text,
                (x, y),
                xytext=(-7, 7),
                textcoords="offset points",
                fontsize=11.5,
                weight="bold",
                color=COLOURS[index % len(COLOURS)],
            )
            taken.append(settle(label, taken, axes.bbox))


def _covered(axes: Any, lines: Sequence[Sequence[Point]]) -> list[Any]:
    """Return boxes, in pixels, that the legend, the points and the lines between them cover."""
    legend = axes.get_legend()
    boxes = [legend.get_window_extent()] if legend else []
    for line in lines:
        places = axes.transData.transform([(x, y) for x, y, _ in line])
        boxes += [_box(x, y, 12) for x, y in places]
        for (left, low), (right, high) in itertools.pairwise(places):
            steps = 1 + int(math.hypot(right - left, high - low) / 4)
            boxes += [
                _box(left + (right - left) * step / steps, low + (high - low) * step / steps, 4)
                for step in range(steps)
            ]
    return boxes


def _box(x: float, y: float, size: float) -> Any:
    return Bbox.from_bounds(x - size / 2, y - size / 2, size, size)


def draw_benchmark(figure: Any, result: Result) -> None:
    """Draw BLEU against milliseconds per sentence (logarithmic), one panel a batch size.

    Filled points are on the Pareto front of their panel: nothing measured is both faster and
    better. Raises `UsageError` for a result without BLEU.
    """
    sizes = _drawn_sizes(result)
    titled(
        figure,
        "Quality against time per sentence",
        result.name,
        f"Measured on: {conditions_of(result)}",
        wide=110,
    )
    width = 0.93 / len(sizes)
    for number, size in enumerate(sizes):
        axes = figure.add_axes((0.075 + number * width, 0.31, width - 0.06, 0.49))
        _draw_panel(axes, result, size, first=number == 0)
    _draw_legend(figure)


def pareto(points: Sequence[Row]) -> list[bool]:
    """Return which points have none that is as fast and as good, and better in one of both."""
    places = [(row.ms_per_sentence or 0, row.bleu or 0) for row in points]
    return [
        not any(
            other[0] <= place[0] and other[1] >= place[1] and other != place for other in places
        )
        for place in places
    ]


def _drawn_sizes(result: Result) -> list[int]:
    rows = [row for row in (*result.rows, *result.baselines) if row.bleu is not None]
    if not rows:
        raise UsageError(
            f"{result.name} was measured without a reference, so there is no quality to draw"
        )
    sizes = sorted({row.batch_size or 1 for row in rows})
    if len(sizes) <= _PANELS:
        return sizes
    return [sizes[round(index * (len(sizes) - 1) / (_PANELS - 1))] for index in range(_PANELS)]


def _draw_panel(axes: Any, result: Result, batch_size: int, first: bool) -> None:
    """Draw one batch size: our lines, joined in order of K, and the baselines."""
    rows = [row for row in result.rows if row.batch_size == batch_size and row.bleu is not None]
    others = [
        row
        for row in result.baselines
        if row.batch_size == batch_size and row.name != OWN and row.bleu is not None
    ]
    everything = [*rows, *others]
    front = dict(zip(map(id, everything), pareto(everything), strict=True))
    lines: list[list[Point]] = []
    for index, (engine, mode) in enumerate(dict.fromkeys((row.engine, row.mode) for row in rows)):
        way = [row for row in rows if (row.engine, row.mode) == (engine, mode)]
        line = sorted(way, key=lambda row: row.group_size)
        colour = COLOURS[index % len(COLOURS)]
        x, y = [row.ms_per_sentence for row in line], [row.bleu for row in line]
        axes.plot(x, y, color=colour, label=f"{mode}, {engine}")
        for row in line:
            _point(axes, row, colour, "o", front[id(row)])
        lines.append(
            [(row.ms_per_sentence or 0, row.bleu or 0, f"K={row.group_size}") for row in line]
        )
    for number, name in enumerate(name for name in result.baseline_names if name != OWN):
        for row in (row for row in others if row.name == name):
            _point(axes, row, INK, _MARKERS[number % len(_MARKERS)], front[id(row)], name)
    _dress(axes, batch_size, [row.ms_per_sentence or 0 for row in everything], first)
    _label_panel(axes, lines, everything)


def _dress(axes: Any, batch_size: int, times: Sequence[float], first: bool) -> None:
    axes.set_xscale("log")
    axes.set_title(f"batch {batch_size}", fontsize=10, loc="left", color=INK)
    axes.set_xlabel("ms per sentence — further left is faster", fontsize=9)
    if first:
        axes.set_ylabel("BLEU (0–100)", fontsize=10)
    axes.grid(color=GRID, linewidth=0.8)
    tidy(axes)
    _plain_ticks(axes, times)
    axes.margins(x=0.22, y=0.2)  # room for labels beside the outermost points
    axes.autoscale_view()  # now: labels are placed where the points will stand


def _label_panel(axes: Any, lines: Sequence[Sequence[Point]], rows: Sequence[Row]) -> None:
    """Write K beside our points, where it covers no line and no point, a baseline's included."""
    places = axes.transData.transform([(row.ms_per_sentence, row.bleu) for row in rows])
    taken = [*_covered(axes, lines), *(_box(x, y, 12) for x, y in places)]
    for index, line in enumerate(lines):
        for x, y, text in line:
            label = axes.annotate(
                text,
                (x, y),
                xytext=(0, 8),
                textcoords="offset points",
                fontsize=8,
                color=COLOURS[index % len(COLOURS)],
            )
            taken.append(settle(label, taken, axes.bbox))


def _plain_ticks(axes: Any, values: Sequence[float]) -> None:
    """Write times out (5, 10, 20 …), as many as a panel has room for."""
    steps = [factor * 10.0**power for power in range(-2, 5) for factor in (1, 2, 5)]
    inside = [step for step in steps if min(values) * 0.8 <= step <= max(values) * 1.25]
    axes.set_xticks(
        inside or [min(values)], [f"{step:g}" for step in inside] or [f"{min(values):.3g}"]
    )
    axes.minorticks_off()


def _point(
    axes: Any, row: Row, colour: str, marker: str, filled: bool, label: str | None = None
) -> None:
    axes.plot(
        [row.ms_per_sentence],
        [row.bleu],
        marker,
        color=colour,
        markerfacecolor=colour if filled else "white",
        markersize=6.5,
        zorder=3,
        label=label,
    )


def _draw_legend(figure: Any) -> None:
    """Draw the lines of all panels, each once, and what filled points mean."""
    found = {}
    for axes in figure.axes:
        found.update(dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True)))
    figure.legend(
        list(found.values()),
        list(found),
        fontsize=8,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0.01, 0.075),
        ncols=2 * len(figure.axes),
        title="filled: on the Pareto front of this picture",
        title_fontsize=8,
        alignment="left",
    )


def draw_frontier(figure: Any, result: Result) -> None:
    """Draw BLEU against steps per sentence, one line for each series; fixed sizes in grey."""
    titled(figure, "Quality against steps, by policy", result.name)
    axes = figure.add_axes((0.11, 0.12, 0.86, 0.72))
    series: dict[str, list[Row]] = {}
    for row in result.rows:
        series.setdefault(row.name or "", []).append(row)
    coloured = 0
    lines: list[list[Point]] = []
    for name, rows in series.items():
        fixed = name.startswith("fixed")
        colour = FAINT if fixed else COLOURS[coloured % len(COLOURS)]
        lookahead = ":" if "lookahead" in name else "-"
        dashes = lookahead if fixed else ("-", "--")[coloured // len(COLOURS) % 2]
        coloured += not fixed
        lines.append(_series(axes, name, rows, colour, dashes))
    axes.set_xlabel("Steps per sentence — further left is fewer", fontsize=10)
    axes.set_ylabel("BLEU (0–100)", fontsize=10)
    axes.set_xlim(left=0, right=1.03 * axes.get_xlim()[1])
    axes.grid(color=GRID, linewidth=0.8)
    tidy(axes)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    taken = _covered(axes, lines)
    for x, y, text in itertools.chain.from_iterable(lines):
        if text:
            beside = {"xytext": (0, 8), "textcoords": "offset points"}
            label = axes.annotate(text, (x, y), fontsize=8, color=FAINT, **beside)
            taken.append(settle(label, taken, axes.bbox))


def _series(axes: Any, name: str, rows: Sequence[Row], colour: str, dashes: str) -> list[Point]:
    """Draw a series and return its points; those of fixed sizes are labelled with K."""
    ordered = sorted(rows, key=lambda row: row.steps_per_sentence or 0)
    places = [(row.steps_per_sentence or 0.0, row.bleu or 0.0) for row in ordered]
    look = {"linestyle": dashes, "linewidth": 1.5, "marker": "o", "markersize": 4.5}
    axes.plot(*zip(*places, strict=True), label=name, color=colour, **look)
    labels = [f"K={row.group_size}" if name.startswith("fixed") else "" for row in ordered]
    return [(*place, label) for place, label in zip(places, labels, strict=True)]


KEPT = {
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "concept_coverage": "concepts",
}
"""The figures whose kept share is drawn."""


def _whole_groups(result: Result) -> list[Row]:
    """Return the model's own rows of mode fast, and K=1, in order of K."""
    rows = [
        row
        for row in result.rows
        if row.model == "own" and (row.mode == "fast" or row.group_size == 1)
    ]
    return sorted(rows, key=lambda row: row.group_size)


def _check_kept(result: Result) -> None:
    rows = _whole_groups(result)
    if not rows or rows[-1].group_size == 1 or _share(result, rows[-1], "rouge_l") is None:
        raise UsageError(
            "the picture shows quality against K: measure mode fast, K above 1, with references"
        )


def _share(result: Result, row: Row, name: str) -> float | None:
    return kept(row, result.baseline(row), name)


def draw_kept(figure: Any, result: Result) -> None:
    """Draw against K how much quality is kept, and how many times faster one text is."""
    rows = _whole_groups(result)
    first = result.baseline(rows[0])
    against = "the autoregressive teacher" if first and first.model == "teacher" else "K=1"
    machine = result.conditions.get("machine")
    told = machine if isinstance(machine, dict) else {}
    threads = told.get("threads")
    where = f"{told.get('cpu')} · {threads} thread{'' if threads == 1 else 's'}"
    titled(
        figure,
        f"What is kept of {against}",
        result.name,
        f"Speed measured on: {where} · one text at a time",
    )
    _draw_shares(figure.add_axes((0.08, 0.2, 0.5, 0.6)), result, rows)
    _draw_speed(figure.add_axes((0.68, 0.2, 0.3, 0.6)), result, rows)


def _draw_shares(axes: Any, result: Result, rows: Sequence[Row]) -> None:
    sizes = [row.group_size for row in rows]
    lowest = 100.0
    for index, (name, label) in enumerate(KEPT.items()):
        shares = [_share(result, row, name) for row in rows]
        values = [100 * share for share in shares if share is not None]
        if len(values) == len(sizes):
            look = {"marker": "o", "markersize": 5, "linewidth": 1.8, "color": COLOURS[index]}
            axes.plot(sizes, values, label=label, **look)
            lowest = min(lowest, *values)
    axes.axhline(100, color=FAINT, linewidth=0.8, linestyle="--")
    axes.set_ylim(bottom=max(0.0, lowest - 5))
    axes.set_ylabel("Kept (%)", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    _by_group_size(axes, sizes)


def _draw_speed(axes: Any, result: Result, rows: Sequence[Row]) -> None:
    ratios = [(row.group_size, speed_up(row, result.baseline(row))) for row in rows]
    known = [(size, ratio) for size, ratio in ratios if ratio is not None]
    look = {"marker": "o", "markersize": 5, "linewidth": 1.8, "color": COLOURS[0]}
    axes.plot([size for size, _ in known], [ratio for _, ratio in known], **look)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Times faster", fontsize=10)
    _by_group_size(axes, [row.group_size for row in rows])


def _by_group_size(axes: Any, sizes: Sequence[int]) -> None:
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("Tokens per step (K)", fontsize=10)
    axes.grid(color=GRID, linewidth=0.8)
    tidy(axes)


CELL_NUMBERS = 25
"""Classes up to which a confusion matrix has room for numbers."""


def draw_confusion(figure: Any, result: Result) -> None:
    """Draw what each class (row) was taken for (column), as shades of its share of documents."""
    details = result.rows[0].details
    names, matrix = details["classes"], details["confusion"]
    totals = [max(sum(row), 1) for row in matrix]
    shares = [[value / total for value in row] for row, total in zip(matrix, totals, strict=True)]
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(labelsize=8, length=0, labelcolor=INK)
    axes.set_xlabel("answered", color=INK)
    axes.set_ylabel("label", color=INK)
    for side in axes.spines.values():
        side.set_color(EDGE)
    if len(names) <= CELL_NUMBERS:
        for row, values in enumerate(matrix):
            for column, value in enumerate(values):
                if value:
                    color = "white" if shares[row][column] > 0.5 else INK
                    axes.text(column, row, value, ha="center", va="center", fontsize=7, color=color)
    figure.tight_layout()
