"""The page: complete in itself, escaped, and written whole or not at all."""

import importlib
import re
import sys
from html.parser import HTMLParser

import pytest

from multistride import report
from multistride.errors import MissingExtraError, UserError
from multistride.report import drawing, page, plots
from multistride.report.page import (
    figure_text,
    glance,
    readable_settings,
    readable_time,
    write_page,
)
from multistride.report.result import Result

_VOID = {"meta", "link", "br", "img", "input", "hr"}


class _Reader(HTMLParser):
    """Collects tags, their attributes, and the text of a page; checks that tags are closed in
    order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


def _page(tmp_path, value, commands=()):
    destination = tmp_path / "new" / "report.html"
    write_page(Result.model_validate(value), destination, commands)
    html = destination.read_text(encoding="utf-8")
    reader = _Reader()
    reader.feed(html)
    assert reader.open == []
    return html, reader


def test_text_is_escaped(tmp_path, translation):
    # guards: a source sentence, a name, a setting or a command running as a script in the reader's
    # browser
    script = "<script>alert(1)</script>"
    translation["name"] = translation["settings"]["note"] = f'{script}" onload="x'
    translation["results"][1]["engine"] = translation["results"][1]["bleu_signature"] = script
    translation["examples"][0]["reference"] = script
    translation["examples"][0]["outputs"][0]["groups"] = [[script]]
    html, reader = _page(tmp_path, translation, commands=[f"echo {script}"])
    assert "<script" not in html
    assert "script" not in {tag for tag, _ in reader.tags}
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert "".join(reader.words).count(script) >= 7


def test_needs_no_network(tmp_path, translation):
    # guards: a page that is broken offline, or that tells others who reads it
    html, reader = _page(tmp_path, translation)
    for _, attributes in reader.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []


def test_accessible(tmp_path, translation):
    # guards: headers, language or the picture's words lost when the template is edited
    _, reader = _page(tmp_path, translation)
    assert ("html", {"lang": "en"}) in reader.tags
    scopes = [attributes["scope"] for tag, attributes in reader.tags if tag == "th"]
    assert scopes == ["col"] * 11 + ["row"] * 2 + ["col"] * 3 + ["row"] * 5
    figure = next(attributes for tag, attributes in reader.tags if tag == "figure")
    assert figure["role"] == "img"
    assert "K=4: 30.0 ms, 38.0 BLEU" in figure["aria-label"]
    identifiers = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_light_dark_and_phone(tmp_path, translation):
    # guards: the rules for dark screens and phones lost when the template is edited
    html, reader = _page(tmp_path, translation)
    assert "prefers-color-scheme: dark" in html
    assert any(
        attributes.get("name") == "viewport" for tag, attributes in reader.tags if tag == "meta"
    )


def test_chips_show_steps(tmp_path, translation):
    # guards: a chip per token instead of per step, or steps numbered from zero
    html, _ = _page(tmp_path, translation)
    chips = re.findall(r'<span class="step">(\d+)</span><span class="wrote">([^<]*)</span>', html)
    assert chips == [
        *[("1", "ein"), ("2", "Sa"), ("3", "‿tz"), ("4", ".")],
        *[("1", "ein Sa"), ("2", "‿tz.")],
        ("1", "ein Satz."),
    ]
    assert "· 1 step<" in html
    assert "A chip that starts with ‿" in html


def test_optional_sections(tmp_path, phonemes):
    # guards: empty headings when there are no examples and no commands
    phonemes["examples"] = []
    html, _ = _page(tmp_path, phonemes)
    assert "Worked examples" not in html
    assert "Reproduce it" not in html


def test_commands_in_order(tmp_path, phonemes):
    # guards: commands dropped or shuffled
    html, _ = _page(tmp_path, phonemes, commands=["first --json > a", "second"])
    assert re.findall(r"<code>(first.*|second)</code>", html) == ["first --json &gt; a", "second"]


def test_same_result_same_page(tmp_path, translation):
    # guards: a page that changes each time it is made
    assert _page(tmp_path, translation)[0] == _page(tmp_path, translation)[0]


def test_failure_leaves_the_old_page(tmp_path, translation, monkeypatch):
    # guards: half a page over a good one
    destination = tmp_path / "report.html"
    destination.write_text("old")

    def broken(result):
        raise RuntimeError("no picture")

    monkeypatch.setattr(page, "plot", broken)
    with pytest.raises(RuntimeError):
        write_page(Result.model_validate(translation), destination)
    assert destination.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_unwritable_destination(tmp_path, translation):
    # guards: a traceback when the folder is a file
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not write"):
        write_page(Result.model_validate(translation), tmp_path / "file" / "report.html")


def test_glance_by_hand(translation, phonemes):
    # guards: the headline comparing with the wrong row or the wrong way round
    assert glance(Result.model_validate(translation)) == (
        "The fastest K above 1 is 4: 30.0 ms per sentence (median) against 90.0 ms at K=1, "
        "3.00 times as fast. It keeps 95.0 % of the BLEU, 38.0 of 40.0."
    )
    assert glance(Result.model_validate(phonemes)) == (
        "The fastest K above 1 is 4: 30.0 ms per word (median) against 90.0 ms at K=1, "
        "3.00 times as fast. The phoneme error rate is 25.0 % against 12.5 %."
    )


@pytest.mark.parametrize("kept", [0, 1])
def test_glance_needs_a_comparison(translation, kept):
    # guards: a headline about one row alone
    translation["results"] = [translation["results"][kept]]
    assert glance(Result.model_validate(translation)) == ""


def test_figure_text(phonemes):
    # guards: error rate read out where the picture shows accuracy
    assert "K=1: 90.0 ms, 87.5 % phoneme accuracy" in figure_text(Result.model_validate(phonemes))


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        ("2026-11-03T14:02:11+00:00", "3 November 2026, 14:02 UTC"),
        ("2026-01-13T09:05:00Z", "13 January 2026, 09:05 UTC"),
        ("2026-01-13T09:05:00", "13 January 2026, 09:05"),
    ],
)
def test_readable_time(created, expected):
    # guards: a time without its zone, or months off by one
    assert readable_time(created) == expected


def test_readable_settings(translation):
    # guards: settings dropped, reordered, or shown as Python
    settings = {
        "batch_size": 1,
        "parameters": 61000000,
        "cached": True,
        "seed": None,
        "more": {"a": ["ü"]},
    }
    result = Result.model_validate(translation | {"settings": settings})
    assert readable_settings(result) == [
        ("batch size", "1"),
        ("parameters", "61,000,000"),
        ("cached", "yes"),
        ("seed", "–"),
        ("more", '{"a": ["ü"]}'),
    ]


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_without_the_extra(tmp_path, translation, monkeypatch, missing):
    # guards: an ImportError when the module is imported, or a page half made when it is used
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, missing, None)
        for module in (drawing, plots, page):
            patch.delitem(sys.modules, module.__name__)
            patch.setattr(
                report, module.__name__.rpartition(".")[2], module
            )  # so that it is put back
        bare = importlib.import_module("multistride.report.page")
        with pytest.raises(MissingExtraError, match=r"pip install 'multistride\[report\]'"):
            bare.write_page(Result.model_validate(translation), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
