"""What a shown result says of how to make it again."""

import json

import pytest

from multistride.report.show import show_file


@pytest.mark.parametrize(("beams", "expected"), [((1, 1), 0), ((4, 4), 2), ((1, 4), 0)])
def test_commands_name_the_beam_that_was_used(tmp_path, translation, beams, expected):
    # Guards: a page whose commands make another result than the one it shows.
    for row, beam in zip(translation["results"], beams, strict=True):
        row["beam"] = beam
    page = tmp_path / "page.html"
    path = tmp_path / "result.json"
    path.write_text(json.dumps(translation))
    show_file(path, page, as_markdown=True)
    assert page.read_text().count("--beam 4") == expected
