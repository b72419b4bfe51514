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

ROOT = Path(__file__).parents[3]
GOLDEN = json.loads(Path(__file__).with_name("recorded.json").read_text(encoding="utf-8"))
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def shown(path: str, *flags: str) -> list[str]:
    """Return the numbers that `multistride report` prints of a file, in order."""
    result = CliRunner().invoke(app, ["report", path, *flags], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.exception
    return NUMBER.findall(result.stdout)


def test_every_result_file_has_a_golden_or_is_read_by_the_script_that_wrote_it() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("results/**/*.json")}
    assert set(GOLDEN) <= files


@pytest.mark.parametrize("path", GOLDEN)
def test_a_recorded_file_shows_the_same_numbers(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert shown(path) == GOLDEN[path]["terminal"].split()
    if "markdown" in GOLDEN[path]:
        assert shown(path, "--markdown") == NUMBER.findall(GOLDEN[path]["markdown"])
