"""The confusion matrix as a picture, and its tables."""

import io

from rich.console import Console

from multistride.report.drawing import drawing
from multistride.report.plots import plotter
from multistride.report.result import Result
from multistride.report.tables import class_tables

DETAILS = {
    "classes": ["fruit", "tools"],
    "confusion": [[8, 2], [0, 10]],
    "by_class": [
        {
            "class": "fruit",
            "records": 10,
            "answered": 8,
            "precision": 1.0,
            "recall": 0.8,
            "f1": 0.889,
        },
        {
            "class": "tools",
            "records": 10,
            "answered": 12,
            "precision": 0.833,
            "recall": 1.0,
            "f1": 0.909,
        },
    ],
    "by_length": [{"words_from": 3, "words_to": 1200, "records": 20, "accuracy": 0.9}],
}


def test_rows_are_what_is_right_and_columns_what_was_answered():
    # Guards: a transposed picture; cells without documents that are filled with zeros.
    row = {"group_size": 1, "mode": "fast", "engine": "eager", "metrics": {}, "details": DETAILS}
    row |= {"seconds": 1.0, "records_per_second": 1.0}
    result = Result(name="x", kind="task", task="classification", created="2026-01-01", rows=[row])
    width, height, draw = plotter(result)
    with drawing(width, height) as figure:
        draw(figure, result)
    [axes] = figure.axes
    assert axes.images[0].get_array().tolist() == [[0.8, 0.2], [0.0, 1.0]]
    assert {(*text.get_position(), text.get_text()) for text in axes.texts} == {
        (0, 0, "8"),
        (1, 0, "2"),
        (1, 1, "10"),
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fruit", "tools"]


def test_the_tables_have_every_class_and_length():
    console = Console(width=100, record=True, file=io.StringIO())
    for cells in class_tables(DETAILS):
        console.print(cells.terminal())
    shown = console.export_text()
    assert "tools" in shown
    assert "0.833" in shown
    assert "3 to 1,200" in shown
