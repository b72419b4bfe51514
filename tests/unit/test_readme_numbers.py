"""Every table of the pages on quality and speed is the one its result file makes."""

import re
from pathlib import Path

import pytest

from multistride.report.marks import filled
from multistride.report.reading import read_result
from multistride.report.tables import markdown

ROOT = Path(__file__).parents[2]
TABLE = re.compile(r"<!-- table (\S+) -->\n(.*?)<!-- end -->", re.DOTALL)
TABLES = TABLE.findall((ROOT / "docs/results.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("path", "table"), TABLES)
def test_tables_come_from_result_files(path, table):
    # Guards: a number that no recorded run supports.
    assert table == markdown(read_result(ROOT / path))


def test_there_is_a_table():
    # Guards: the check above passing because it found nothing to check.
    assert TABLES


def test_tables_of_the_speed_page_come_from_result_files():
    # Guards: a speed that no recorded run supports. `python benchmarks/tables.py` makes the tables
    # anew.
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    assert filled(page, ROOT) == page
    assert page.count("<!-- end -->") >= 8
