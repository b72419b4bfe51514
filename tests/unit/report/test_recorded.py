"""Every recorded result file still shows the numbers it showed when it was measured.

`recorded.json` holds what `multistride report` printed before the result files had one reader. The
bug it guards against: a change of the readers or tables that silently changes published numbers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from multistride.cli import app
from multistride.report.reading import read_result, upgrade
from multistride.report.result import Result
from multistride.report.tables import markdown

ROOT = Path(__file__).parents[3]
GOLDEN = json.loads(Path(__file__).with_name("recorded.json").read_text(encoding="utf-8"))
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def shown(path: str, *flags: str) -> list[str]:
    """Return the numbers that `multistride report` prints of a file, in order."""
    result = CliRunner().invoke(app, ["report", path, *flags], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.exception
    return NUMBER.findall(result.stdout)


def test_every_result_file_is_read_by_the_one_reader() -> None:
    files = sorted(ROOT.glob("results/**/*.json"))
    assert set(GOLDEN) <= {path.relative_to(ROOT).as_posix() for path in files}
    for path in files:
        result = read_result(path)
        assert result.rows
        assert read_result_again(result) == result


def read_result_again(result: Result) -> Result:
    """Return what is read of a result as this version writes it."""
    return Result.model_validate_json(json.dumps(upgrade(result.written())), strict=True)


@pytest.mark.parametrize("path", GOLDEN)
def test_a_recorded_file_shows_the_same_numbers(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    # Headings ("distinct-2") are broken to the width of their cells, so their numbers may stand in
    # another order, and a hyphen before them in another line.
    expected = GOLDEN[path]["terminal"].split()
    numbers = ([number.lstrip("-") for number in found] for found in (shown(path), expected))
    one, other = map(sorted, numbers)
    assert one == other
    if "markdown" in GOLDEN[path]:
        assert markdown(read_result(path)) == GOLDEN[path]["markdown"]
