"""The result of measuring a causal model, and its table."""

import json

import pytest

from multistride.errors import DataError
from multistride.report.reading import read_result
from multistride.report.result import Result, Row
from multistride.report.tables import COLUMNS, markdown


def row(**changes):
    shares = dict.fromkeys(
        ("repetition_rate", "repeated_4_grams", "distinct_1", "distinct_2", "distinct_3"), 0.5
    )
    times = {"ms_per_text_p50": 20.0, "ms_per_text_p95": 30.0, "tokens_per_second": 100.0}
    counts = {"steps_per_text": 5.0, "tokens_per_text": 10.0, "tokens_per_step": 2.0}
    rest = {
        "group_size": 1,
        "mode": "greedy",
        "engine": "eager",
        "perplexity": 12.5,
        "identical_to_k1": 1.0,
    }
    return Row(**{**shares, **times, **counts, **rest, **changes})


def test_the_table_compares_with_its_first_row(tmp_path):
    result = Result(
        name="x",
        kind="generation",
        created="2026-01-01",
        rows=(row(), row(group_size=4, mode="exact", ms_per_text_p50=10.0)),
    )
    lines = markdown(result).splitlines()
    assert len(lines) == 4
    assert "2.00×" in lines[3]
    assert lines[0].count("|") == len(COLUMNS["generation"]) + 1
    path = tmp_path / "result.json"
    text = json.dumps(result.written())
    path.write_text(text)
    assert read_result(path) == result
    path.write_text(text.replace('"group_size": 4', '"group_size": 0'))
    with pytest.raises(DataError, match=r"results\.1\.group_size"):
        read_result(path)
