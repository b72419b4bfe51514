"""The tables: right numbers in the right columns, and no text taken for markup."""

import io

import pytest
from rich.console import Console

from multistride.report.cells import Cells, milliseconds
from multistride.report.result import Result
from multistride.report.tables import (
    calibration_table,
    columns_for,
    examples_table,
    main_table,
    markdown,
    same_decoding,
)


def _printed(table, width=80, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(table)
    return console.file.getvalue()


def test_translation_row_by_hand(translation):
    # guards: a share shown as a percentage twice, a ratio upside down, a column shifted
    result = Result.model_validate(translation)
    shown = dict(
        zip(
            (column.heading for column in columns_for(result)),
            main_table(result).rows[1],
            strict=True,
        )
    )
    assert shown == {
        "K": "4",
        "BLEU": "38.0",
        "% of K=1": "95.0",  # 38 / 40
        "chrF": "58.5",
        "steps/sentence": "5.5",
        "tokens/step": "3.60",
        "ms/sentence p50 (p95)": "30.0 (61.2)",
        "speed up": "3.00×",  # 90 ms / 30 ms
        "tokens/s": "3,600",
        "repeats %": "2.0",
        "same as K=1 %": "–",
    }


def test_phoneme_row_by_hand(phonemes):
    # guards: accuracy shown where the error rate belongs
    result = Result.model_validate(phonemes)
    shown = dict(
        zip(
            (column.heading for column in columns_for(result)),
            main_table(result).rows[0],
            strict=True,
        )
    )
    assert shown == {
        "K": "1",
        "phoneme error rate %": "12.5",
        "word accuracy %": "75.0",
        "BLEU": "40.0",
        "steps/word": "20.00",
        "tokens/step": "1.00",
        "ms/word p50 (p95)": "90.0 (180)",
        "tokens/s": "1,234",
    }


def test_no_baseline(translation):
    # guards: a crash, or a made-up ratio, when K=1 was not measured
    del translation["results"][0]
    result = Result.model_validate(translation)
    assert main_table(result).rows[0].count("–") == 3


def test_zero_baseline(translation):
    # guards: division by a BLEU or a time of zero
    translation["results"][0]["bleu"] = 0.0
    translation["results"][1]["ms_per_sentence_p50"] = 0.0
    result = Result.model_validate(translation)
    assert main_table(result).rows[1].count("–") == 3


def test_ways_become_columns_when_they_differ(translation):
    # guards: two rows with the same K that cannot be told apart
    result = Result.model_validate(translation)
    assert same_decoding(result) == "mode fast, beam 1, engine eager"
    translation["results"].append(translation["results"][1] | {"mode": "exact", "beam": 4})
    result = Result.model_validate(translation)
    assert [column.heading for column in columns_for(result)][:4] == ["K", "mode", "beam", "BLEU"]
    assert same_decoding(result) == "engine eager"


def test_markdown_by_hand(phonemes):
    # guards: a Markdown table that renderers do not take for one
    lines = markdown(Result.model_validate(phonemes)).split("\n")
    assert lines[0].startswith("| K | phoneme error rate % |")
    assert lines[1] == "| --: | --: | --: | --: | --: | --: | --: | --: |"
    assert lines[2] == "| 1 | 12.5 | 75.0 | 40.0 | 20.00 | 1.00 | 90.0 (180) | 1,234 |"
    assert lines[4:] == [
        "",
        "BLEU `nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0`",
        "",
    ]


def test_markdown_escapes_bars(translation):
    # guards: an engine's name opening a new cell
    translation["results"][1]["engine"] = "a|b"
    assert "| a\\|b |" in markdown(Result.model_validate(translation))


@pytest.mark.parametrize("kind", ["translation", "phonemes"])
def test_table_fits_eighty_columns(request, kind):
    # guards: numbers cut off in an ordinary terminal, or when the output is piped
    result = Result.model_validate(request.getfixturevalue(kind))
    printed = _printed(main_table(result).terminal())
    assert "…" not in printed
    body = [line.split() for line in printed.splitlines()]
    for row in main_table(result).rows:
        assert " ".join(row).split() in body


def test_names_are_not_markup(translation):
    # guards: "[bold]" in a name or sentence swallowed, or "[/]" raising, as rich markup
    translation["name"] = "[red]name[/]"
    result = Result.model_validate(translation)
    assert "[red]name[/]" in _printed(main_table(result).terminal())
    assert "[bold]sentence[/bold]" in _printed(examples_table(result), width=120)


def test_examples_show_groups(translation):
    # guards: groups run together, or steps counted in tokens
    printed = _printed(examples_table(Result.model_validate(translation)), width=120)
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert "1 4 ein │ Sa │ ‿tz │ ." in lines
    assert "2 2 ein Sa │ ‿tz." in lines
    assert "4 1 ein Satz." in lines


def test_neighbouring_groups_differ_in_style(phonemes):
    # guards: colour that does not tell the groups apart
    printed = _printed(
        examples_table(Result.model_validate(phonemes)),
        force_terminal=True,
        color_system="standard",
    )
    assert "\x1b[1;36mK AE1\x1b[0m" in printed
    assert "\x1b[1;33mT\x1b[0m" in printed


def test_no_examples(translation):
    # guards: a crash on a result without worked examples
    assert examples_table(Result.model_validate(translation | {"examples": []})).row_count == 0


@pytest.mark.parametrize(
    ("value", "expected"), [(0.841, "0.84"), (8.4, "8.40"), (84.12, "84.1"), (1841.0, "1,841")]
)
def test_milliseconds(value, expected):
    # guards: fast models rounded to 0 ms, slow ones shown to a microsecond
    assert milliseconds(value) == expected


def test_html_escapes_and_has_every_cell(translation):
    # guards: markup of a result in the page; a form of the table with other cells than the others
    translation["results"][1]["engine"] = "<b>&"
    cells = main_table(Result.model_validate(translation))
    html = cells.html()
    assert "<b>" not in html
    assert "&lt;b&gt;&amp;" in html
    assert html.count("<td") + html.count('scope="row"') == sum(map(len, cells.rows))


def test_every_column_says_what_it_means(translation, phonemes):
    # guards: a heading that a reader has to guess
    for value in (translation, phonemes):
        cells = main_table(Result.model_validate(value))
        assert len(cells.meanings) == len(cells.headings)
        assert all(meaning.endswith(".") for meaning in cells.meanings)


def test_a_position_nobody_came_to_has_no_accuracy():
    # guards: 0.0 % for what was not measured
    place = {"layout": "sat", "group_size": 4, "place": 1, "temperature": 1.0, "shift": 0.0}
    shares = dict.fromkeys(("right", "confidence", "error_before", "error_after"), 0.0)
    measured = {"truth": "own-k1", "places": [{**place, **shares, "tokens": 0}]}
    [row] = calibration_table(measured).rows
    assert list(row) == ["sat", "4", "1", "-", "-", "-", "1.00", "+0.00", "-", "0"]


@pytest.mark.parametrize("kind", ["translation", "phonemes"])
@pytest.mark.parametrize("width", [30, 40, 50, 60, 79])
def test_no_number_is_broken_where_the_terminal_is_narrow(request, kind, width):
    # guards: 100.0 written as "100." above "0"
    cells = main_table(Result.model_validate(request.getfixturevalue(kind)))
    shown = _printed(cells.terminal(), width)
    assert max(map(len, shown.splitlines())) <= width
    for row in cells.rows:
        assert all(cell in shown for cell, number in zip(row, cells.numeric, strict=True) if number)


def test_each_part_of_a_wide_table_names_its_rows():
    # guards: numbers of the second part whose K nobody knows
    headings, numeric = ["K", "way", *"abcdef"], [True, False, *[True] * 6]
    rows = [[size, "exact", *[f"{size}000.5"] * 6] for size in ("1", "4")]
    cells = Cells(headings, numeric, rows, title="A title", caption="And more")
    assert cells.parts(80) == [cells]
    parts = cells.parts(40)
    assert [list(part.headings) for part in parts] == [
        ["K", "way", "a", "b", "c"],
        ["K", "way", "d", "e", "f"],
    ]
    shown = _printed(cells.terminal(), 40)
    assert [shown.count(text) for text in ("A title", "And more", "exact")] == [1, 1, 4]
