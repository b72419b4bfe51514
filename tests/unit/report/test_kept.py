"""What is kept of the teacher: compared with the right row, drawn, and refused where there is
nothing to show."""

import json
from io import StringIO

import pytest
from rich.console import Console

from multistride.errors import DataError, UsageError
from multistride.report.reading import read_result
from multistride.report.result import Result, Row
from multistride.report.show import show_file
from multistride.report.tables import main_table, markdown


def row(model, group_size, rouge_l, milliseconds, mode="fast", **changes):
    metrics = {
        "rouge_1": rouge_l,
        "rouge_2": rouge_l / 2,
        "rouge_l": rouge_l,
        "repetition_rate": 0.01,
    }
    return Row(
        model=model,
        group_size=group_size,
        mode=mode,
        engine="eager",
        metrics=metrics,
        seconds=1.0,
        records_per_second=10.0,
        ms_per_record_p50=milliseconds,
        ms_per_record_p95=2 * milliseconds,
        **changes,
    )


def result(*rows, task="generation"):
    return Result(
        kind="task",
        created="2026-01-01",
        task=task,
        name="concepts",
        conditions={"records": 2, "failed": 0, "machine": {"cpu": "some", "threads": 1}},
        rows=tuple(rows),
    )


ROWS = (
    row("teacher", 1, 0.4, 40.0),
    row("own", 1, 0.38, 42.0, same_as_k1=1.0),
    row("own", 2, 0.36, 20.0, same_as_k1=0.5),
    row("own", 4, 0.3, 10.0, same_as_k1=0.2, details={"bleu_signature": "x"}),
    row("own", 4, 0.38, 30.0, mode="exact", same_as_k1=1.0),
)


def test_everything_is_compared_with_the_teacher_and_else_with_k1():
    """Guards against a share of the model's own K=1, which hides what the many-K training cost."""
    table = main_table(result(*ROWS))
    headings, cells = list(table.headings), table.rows
    kept, speed = headings.index("% kept"), headings.index("speed up")
    assert [each[kept] for each in cells] == ["100.0", "95.0", "90.0", "75.0", "95.0"]
    assert [each[speed] for each in cells] == ["1.00×", "0.95×", "2.00×", "4.00×", "1.33×"]
    assert "concepts %" not in headings, "a column without any figure"
    for rows, first in ((ROWS[1:], ROWS[1]), (ROWS[2:], ROWS[2])):
        assert result(*rows).baseline(ROWS[3]) == first


def test_the_file_is_shown_and_drawn(tmp_path, capsys):
    path, picture = tmp_path / "result.json", tmp_path / "kept.png"
    path.write_text(json.dumps(result(*ROWS).written()))
    show_file(path, None, picture, as_markdown=True)
    assert capsys.readouterr().out == markdown(result(*ROWS))
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="which has no page: leave --page out"):
        show_file(path, tmp_path / "page.html")


def test_the_terminal_table_fits_80_columns():
    rows = [
        row.model_copy(update={"metrics": {**row.metrics, "concept_coverage": 0.123}})
        for row in ROWS
    ]
    console = Console(width=80, record=True, file=StringIO())
    console.print(main_table(result(*rows), brief=True).terminal())
    assert "teacher" in console.export_text()
    assert not any(
        len(line.rstrip()) > 80 or line.strip() == "%"
        for line in console.export_text().splitlines()
    )


def test_a_result_without_groups_has_no_picture(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result(*ROWS[:2]).written()))
    with pytest.raises(UsageError, match="measure mode fast, K above 1"):
        show_file(path, None, tmp_path / "kept.svg", as_markdown=True)
    assert not (tmp_path / "kept.svg").exists()


def test_damaged_results_are_named(tmp_path):
    path = tmp_path / "result.json"
    text = json.dumps(result(*ROWS).written())
    path.write_text(text.replace('"seconds": 1.0', '"seconds": "?"', 1))
    with pytest.raises(DataError, match=r"results\.0\.seconds: "):
        read_result(path)
