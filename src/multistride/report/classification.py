"""A classifier's result: figures by class, by length, and the confusion matrix as a picture."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

from multistride.report.drawing import EDGE, INK

CELL_NUMBERS = 25
"""Classes up to which a picture has room for numbers."""


def class_table(details: dict[str, Any]) -> Group:
    """Precision, recall and F1 of every class, and accuracy by the length of the documents."""
    classes, lengths = (
        Table(title="By class", title_justify="left"),
        Table(title="By length", title_justify="left"),
    )
    for heading in ("class", "precision", "recall", "F1", "documents"):
        classes.add_column(heading, justify="left" if heading == "class" else "right")
    for row in details["by_class"]:
        shares = (f"{row[name]:.3f}" for name in ("precision", "recall", "f1"))
        classes.add_row(row["class"], *shares, f"{row['records']:,}")
    for heading in ("words", "accuracy", "documents"):
        lengths.add_column(heading, justify="right")
    for row in details["by_length"]:
        lengths.add_row(
            f"{row['words_from']:,} to {row['words_to']:,}",
            f"{row['accuracy']:.3f}",
            f"{row['records']:,}",
        )
    return Group(classes, lengths)


def confusion_size(details: dict[str, Any]) -> tuple[float, float]:
    """Inches the picture needs."""
    side = 2.8 + 0.36 * len(details["classes"])
    return side, side


def draw_confusion(figure: Any, details: dict[str, Any]) -> None:
    """What each class (row) was taken for (column): its shares as shades, numbers of documents in
    the cells.
    """
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
