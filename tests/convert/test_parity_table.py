"""The tables of docs/convert.md are those of results/convert-parity.json, and what they say is good enough."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULT = json.loads((ROOT / "results/convert-parity.json").read_text())
PAGE = (ROOT / "docs/convert.md").read_text()


def rows():
    for line in RESULT["layouts"]:
        cells = (
            line["layout"],
            f"`{line['class']}`",
            f"{line['parameters']:,}",
            f"{line['largest_logit_difference']:.1e}",
            f"{line['identical_continuations']} of {line['prompts']}",
        )
        yield "| " + " | ".join(cells) + " |"


def test_the_page_says_what_was_measured():
    table = re.search(r"<!-- parity -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    assert table is not None
    assert table[1].splitlines()[2:] == list(rows())


@pytest.mark.parametrize("line", RESULT["layouts"], ids=lambda line: line["layout"])
def test_what_was_measured_is_good_enough(line):
    assert line["largest_logit_difference"] <= 1e-4
    assert line["identical_continuations"] == line["prompts"] == RESULT["settings"]["prompts"]
