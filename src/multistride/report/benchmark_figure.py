"""The picture of a benchmark: quality against time per sentence, one panel a batch size, ours and
the baselines.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multistride.errors import UsageError
from multistride.report.benchmark import OWN, BenchmarkResult, Timing
from multistride.report.drawing import (
    COLOURS,
    FAINT,
    GRID,
    INK,
    check_drawing,
    drawing,
    svg_text,
    tidy,
)
from multistride.report.figures import box_around, settle

_PANELS = 3
"""Batch sizes that are drawn at most: the smallest, the largest, and those between them."""


def check_picture(reference: Path | None) -> None:
    """Raise `UsageError` without a reference, `MissingExtraError` without matplotlib."""
    if reference is None:
        raise UsageError(
            "--picture shows quality against time, and no --reference was given: give one, or leave it out"
        )
    check_drawing()


def benchmark_figure(result: BenchmarkResult) -> str:
    """BLEU (up) against milliseconds per sentence (right, logarithmic), as the text of one `<svg>`.

    Filled points are on the Pareto front of their panel: nothing measured is both faster and
    better. Raises `UsageError` for a result without BLEU, `MissingExtraError` without matplotlib.
    """
    points = [row for row in (*result.results, *result.baselines) if row.bleu is not None]
    if not points:
        raise UsageError(
            f"{result.name} was measured without a reference, so there is no quality to draw"
        )
    sizes = _drawn_sizes(sorted({row.batch_size for row in points}))
    with drawing(1.2 + 3.4 * len(sizes), 4.6) as figure:
        _draw_words(figure, result)
        width = 0.93 / len(sizes)
        for number, size in enumerate(sizes):
            axes = figure.add_axes((0.075 + number * width, 0.31, width - 0.06, 0.49))
            _draw_panel(axes, result, size, first=number == 0)
        _draw_legend(figure)
        return svg_text(figure)


def pareto(points: Sequence[Timing]) -> list[bool]:
    """Which points have none that is at least as fast and as good, and better in one of both."""
    return [
        not any(
            other.ms_per_sentence <= point.ms_per_sentence
            and (other.bleu or 0) >= (point.bleu or 0)
            and (other.ms_per_sentence, other.bleu) != (point.ms_per_sentence, point.bleu)
            for other in points
        )
        for point in points
    ]


def _drawn_sizes(sizes: Sequence[int]) -> list[int]:
    if len(sizes) <= _PANELS:
        return list(sizes)
    return [sizes[round(index * (len(sizes) - 1) / (_PANELS - 1))] for index in range(_PANELS)]


def _draw_words(figure: Any, result: BenchmarkResult) -> None:
    title = textwrap.shorten(result.name, 70, placeholder=" …")
    figure.text(
        0.02, 0.95, "Quality against time per sentence", fontsize=14, weight="bold", va="center"
    )
    figure.text(0.02, 0.895, title, fontsize=10, color=FAINT, va="center")
    caption = textwrap.fill(f"Measured on: {result.conditions}", 110, max_lines=2, placeholder=" …")
    figure.text(0.02, 0.015, caption, fontsize=8, color=FAINT, va="bottom", linespacing=1.4)


def _draw_panel(axes: Any, result: BenchmarkResult, batch_size: int, first: bool) -> None:
    """One batch size: our lines, joined in order of K, and the baselines."""
    own = [row for row in result.results if row.batch_size == batch_size and row.bleu is not None]
    others = [row for row in result.baselines if row.batch_size == batch_size and row.name != OWN]
    everything: list[Timing] = [*own, *(row for row in others if row.bleu is not None)]
    front = dict(zip(map(id, everything), pareto(everything), strict=True))
    labels = []
    for index, (engine, mode) in enumerate(dict.fromkeys((row.engine, row.mode) for row in own)):
        rows = sorted(
            (row for row in own if (row.engine, row.mode) == (engine, mode)),
            key=lambda row: row.group_size,
        )
        colour = COLOURS[index % len(COLOURS)]
        label = f"{mode}, {engine}"
        axes.plot(
            [row.ms_per_sentence for row in rows],
            [row.bleu for row in rows],
            color=colour,
            label=label,
        )
        for row in rows:
            _point(axes, row, colour, "o", front[id(row)])
            labels.append((f"K={row.group_size}", row, colour))
    for place, name in enumerate(name for name in result.baseline_names if name != OWN):
        for other in (row for row in others if row.name == name and row.bleu is not None):
            _point(axes, other, INK, _MARKERS[place % len(_MARKERS)], front[id(other)], name)
    _dress(axes, batch_size, [row.ms_per_sentence for row in everything], first)
    _draw_labels(axes, labels, everything)


_MARKERS = "sD^vP"
"""Of the baselines, in order."""


def _dress(axes: Any, batch_size: int, times: Sequence[float], first: bool) -> None:
    axes.set_xscale("log")
    axes.set_title(f"batch {batch_size}", fontsize=10, loc="left", color=INK)
    axes.set_xlabel("ms per sentence — further left is faster", fontsize=9)
    if first:
        axes.set_ylabel("BLEU (0–100)", fontsize=10)
    axes.grid(color=GRID, linewidth=0.8)
    tidy(axes)
    _plain_ticks(axes, times)
    axes.margins(x=0.12, y=0.16)


def _draw_labels(
    axes: Any, labels: Sequence[tuple[str, Timing, str]], points: Sequence[Timing]
) -> None:
    """Write "K=…" beside our points, where it covers no point and no other label."""
    places = axes.transData.transform([(row.ms_per_sentence, row.bleu) for row in points])
    taken = [box_around(x, y, 12) for x, y in places]
    for text, row, colour in labels:
        place = (row.ms_per_sentence, row.bleu)
        label = axes.annotate(
            text, place, xytext=(0, 8), textcoords="offset points", fontsize=8, color=colour
        )
        taken.append(settle(label, taken, axes.bbox))


def _plain_ticks(axes: Any, values: Sequence[float]) -> None:
    """Times written out (5, 10, 20 …), as many as a panel has room for."""
    steps = [factor * 10.0**power for power in range(-2, 5) for factor in (1, 2, 5)]
    inside = [step for step in steps if min(values) * 0.8 <= step <= max(values) * 1.25]
    axes.set_xticks(
        inside or [min(values)], [f"{step:g}" for step in inside] or [f"{min(values):.3g}"]
    )
    axes.minorticks_off()


def _point(
    axes: Any, row: Timing, colour: str, marker: str, filled: bool, label: str | None = None
) -> None:
    face = colour if filled else "white"
    axes.plot(
        [row.ms_per_sentence],
        [row.bleu],
        marker,
        color=colour,
        markerfacecolor=face,
        markersize=6.5,
        zorder=3,
        label=label,
    )


def _draw_legend(figure: Any) -> None:
    """The lines of all panels, each once, and what filled points mean."""
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
