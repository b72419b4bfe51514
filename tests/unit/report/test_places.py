import pytest

from multistride.report.result import Result
from multistride.report.tables import places_table


@pytest.fixture
def result(translation):
    places = [
        {"group_size": 1, "place": 1, "accuracy": 0.5},
        {"group_size": 2, "place": 1, "accuracy": 0.4},
        {"group_size": 2, "place": 2, "accuracy": 0.25},
    ]
    rest = {
        "tokens": 8,
        "cross_entropy": 1.5,
        "confidence": 0.625,
        "entropy": 1.0,
        "calibration_error": 0.125,
    }
    return Result.model_validate({**translation, "places": [{**rest, **place} for place in places]})


def test_a_column_for_each_place_and_none_beyond_the_group(result):
    # Guards: numbers of one place under another, and of one group size in the row of another.
    cells = places_table(result)
    assert list(cells.headings) == ["K", "at position", "1", "2"]
    assert cells.rows == [
        ["1", "accuracy %", "50.0", ""],
        ["1", "confidence %", "62.5", ""],
        ["1", "cross-entropy", "1.50", ""],
        ["1", "entropy", "1.00", ""],
        ["1", "calibration error %", "12.5", ""],
        ["2", "accuracy %", "40.0", "25.0"],
        ["2", "confidence %", "62.5", "62.5"],
        ["2", "cross-entropy", "1.50", "1.50"],
        ["2", "entropy", "1.00", "1.00"],
        ["2", "calibration error %", "12.5", "12.5"],
    ]


def test_the_terminal_shows_every_row(result):
    # Guards: a table that drops its last section.
    assert places_table(result).table(80).row_count == 10
