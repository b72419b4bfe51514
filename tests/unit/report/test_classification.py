"""The confusion matrix as a picture, and its tables."""

import io

from multistride.report.classification import class_table, confusion_size, draw_confusion
from rich.console import Console

from multistride.report.drawing import drawing

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
    with drawing(*confusion_size(DETAILS)) as figure:
        draw_confusion(figure, DETAILS)
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
    console.print(class_table(DETAILS))
    shown = console.export_text()
    assert "tools" in shown
    assert "0.833" in shown
    assert "3 to 1,200" in shown
