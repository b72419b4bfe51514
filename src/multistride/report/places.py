"""The table of what each place of a group is worth: how far ahead a model can look before it
guesses.
"""

from __future__ import annotations

from collections.abc import Callable

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from multistride.report.results import EvaluationResult, PlaceMeasurement

MEASURES: tuple[tuple[str, str, Callable[[PlaceMeasurement], str]], ...] = (
    (
        "right %",
        "Tokens equal to the reference's, which the model is given up to the group; higher is better.",
        lambda row: f"{100 * row.accuracy:.1f}",
    ),
    (
        "sure %",
        "Mean probability of the chosen token; it equals the share of right ones where the model is calibrated.",
        lambda row: f"{100 * row.confidence:.1f}",
    ),
    (
        "cross-entropy",
        "Nats per token of the reference; lower is better.",
        lambda row: f"{row.cross_entropy:.2f}",
    ),
    (
        "entropy",
        "Nats; how undecided the model is between tokens.",
        lambda row: f"{row.entropy:.2f}",
    ),
    (
        "off by %",
        "Expected calibration error: how far sure and right lie apart, over 15 bins of confidence; 0 is calibrated.",
        lambda row: "" if row.calibration_error is None else f"{100 * row.calibration_error:.1f}",
    ),
)
"""Heading, meaning and text of each measure."""


def place_rows(result: EvaluationResult) -> list[list[str]]:
    """The heading and one row per K and measure: K, measure, and a cell for each place (empty where
    K ends).
    """
    sizes = sorted({row.group_size for row in result.places})
    places = range(1, max((row.place for row in result.places), default=0) + 1)
    table = [["K", "", *(f"place {place}" for place in places)]]
    for size in sizes:
        of_size = {row.place: row for row in result.places if row.group_size == size}
        for heading, _, text in MEASURES:
            cells = [text(of_size[place]) if place in of_size else "" for place in places]
            table.append([str(size), heading, *cells])
    return table


def places_table(result: EvaluationResult) -> Table:
    """The same for the terminal."""
    heading, *rows = place_rows(result)
    title = Text("By place in the group, given the reference before it")
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for index, name in enumerate(heading):
        table.add_column(
            Text(name.replace("place ", "")), justify="left" if index == 1 else "right"
        )
    for index, row in enumerate(rows):
        table.add_row(
            *(Text(cell) for cell in row), end_section=index % len(MEASURES) == len(MEASURES) - 1
        )
    return table
