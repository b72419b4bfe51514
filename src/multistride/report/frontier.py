"""The picture of the frontier: quality against steps per sentence, one line for each policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multistride.report.drawing import COLOURS, FAINT, GRID, drawing, svg_text, tidy


def frontier_figure(result: Mapping[str, Any]) -> str:
    """What `examples/frontier.py` measured as the text of one `<svg>`: a line for each series of
    points.

    Fixed group sizes are drawn in grey with their K. Raises `MissingExtraError` without matplotlib.
    """
    series: dict[str, list[Mapping[str, Any]]] = {}
    for point in result["points"]:
        series.setdefault(point["series"], []).append(point)
    with drawing(6.4, 4.6) as figure:
        axes = figure.add_axes((0.11, 0.12, 0.86, 0.72))
        figure.text(
            0.02, 0.95, "Quality against steps, by policy", fontsize=14, weight="bold", va="center"
        )
        figure.text(0.02, 0.895, str(result["name"]), fontsize=10, color=FAINT, va="center")
        coloured = 0
        for name, points in series.items():
            fixed = name.startswith("fixed")
            colour = FAINT if fixed else COLOURS[coloured % len(COLOURS)]
            dashes = (
                (":" if "lookahead" in name else "-")
                if fixed
                else ("-", "--")[coloured // len(COLOURS) % 2]
            )
            coloured += not fixed
            _line(axes, name, points, colour, dashes, named=fixed)
        axes.set_xlabel("Steps per sentence — further left is fewer", fontsize=10)
        axes.set_ylabel("BLEU (0–100)", fontsize=10)
        axes.set_xlim(left=0, right=1.03 * axes.get_xlim()[1])
        axes.grid(color=GRID, linewidth=0.8)
        tidy(axes)
        axes.legend(fontsize=8, frameon=False, loc="lower right")
        return svg_text(figure)


def _line(
    axes: Any, name: str, points: Sequence[Mapping[str, Any]], colour: str, dashes: str, named: bool
) -> None:
    ordered = sorted(points, key=lambda point: point["steps_per_sentence"])
    places = [(point["steps_per_sentence"], point["bleu"]) for point in ordered]
    look = {
        "color": colour,
        "linestyle": dashes,
        "linewidth": 1.5,
        "marker": "o",
        "markersize": 4.5,
    }
    axes.plot(*zip(*places, strict=True), label=name, **look)
    for point, place in zip(ordered, places, strict=True):
        if named:
            text = f"K={point['group_size']}"
            beside = (
                {"xytext": (5, -11), "ha": "left"}
                if dashes == "-"
                else {"xytext": (-5, 5), "ha": "right"}
            )
            axes.annotate(
                text, place, textcoords="offset points", fontsize=8, color=colour, **beside
            )
