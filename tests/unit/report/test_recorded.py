"""Every recorded result file still shows the numbers it showed when it was measured.

`recorded.json` holds what `multistride report` printed before the result files had one reader. The
bug it guards against: a change of the readers or tables that silently changes published numbers.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from multistride.cli import app
from multistride.errors import DataError
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
    # Counts of faults and loads of servers, which no report shows; the course reads its own.
    others = re.compile(r"(fuzz|kills|ray-kill|serve-\w+|generation-equal-budget)\.json|course/")
    files = sorted(
        path
        for path in ROOT.glob("results/**/*.json")
        if not others.match(path.relative_to(ROOT / "results").as_posix())
    )
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


WRONG: tuple[Any, ...] = (None, 3, "x", [], {}, [None], {"a": 1}, -1.5, True)


def mutated(tree: Any, generator: random.Random) -> Any:
    """Return a copy of a tree in which one part is something else, or missing."""
    if not isinstance(tree, dict | list) or not tree or generator.random() < 0.15:
        return generator.choice(WRONG)
    if isinstance(tree, dict):
        key = generator.choice(list(tree))
        if generator.random() < 0.2:
            return {name: value for name, value in tree.items() if name != key}
        return {**tree, key: mutated(tree[key], generator)}
    index = generator.randrange(len(tree))
    return [*tree[:index], mutated(tree[index], generator), *tree[index + 1 :]]


def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    # Guards: a traceback for a file that somebody edited by hand.
    generator = random.Random(3)
    one_of_a_kind: dict[tuple[str, ...], Any] = {}
    for path in sorted(ROOT.glob("results/**/*.json")):
        tree = json.loads(path.read_text(encoding="utf-8"))
        one_of_a_kind.setdefault(tuple(tree), tree)
    path = tmp_path / "result.json"
    refused: list[str] = []
    for tree in one_of_a_kind.values():
        for _ in range(25):
            path.write_text(json.dumps(mutated(tree, generator)), encoding="utf-8")
            try:
                read_result(path)
            except DataError as error:
                refused.append(str(error))
    assert len(refused) > 100
    assert not any("\n" in message for message in refused)
