"""Reading result files, and the comparisons a result can make by itself."""

import json

import pytest
from pydantic import ValidationError

from multistride.errors import DataError
from multistride.report.reading import read_result, upgrade
from multistride.report.result import Output, Result


def _written(tmp_path, value):
    path = tmp_path / "result.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def _one_line_error(path):
    with pytest.raises(DataError) as caught:
        read_result(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "multistride evaluate" in message
    return message


def test_reads_what_it_wrote(tmp_path, translation):
    # guards: a field lost or renamed between writing and reading
    result = read_result(_written(tmp_path, translation))
    assert json.loads(json.dumps(result.written())) == translation
    assert read_result(_written(tmp_path, result.written())) == result


def test_examples_may_be_absent(tmp_path, translation):
    # guards: a result without worked examples refused
    del translation["examples"]
    assert read_result(_written(tmp_path, translation)).examples == ()


def test_settings_are_free(tmp_path, translation):
    # guards: a newly recorded setting making old readers fail
    translation["settings"]["brand new"] = {"deep": [None, True, 1.5]}
    assert read_result(_written(tmp_path, translation)).conditions["brand new"] == {
        "deep": [None, True, 1.5]
    }


def test_missing_file(tmp_path):
    # guards: a FileNotFoundError traceback
    assert "result.json" in _one_line_error(tmp_path / "result.json")


def test_directory_instead_of_file(tmp_path):
    # guards: an IsADirectoryError traceback
    assert str(tmp_path) in _one_line_error(tmp_path)


@pytest.mark.parametrize("text", ["", "not json", '{"name": ', "[1, 2]", "\udcff"])
def test_not_an_object(tmp_path, text):
    # guards: a JSON or Unicode traceback for a file that is something else
    path = tmp_path / "result.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "is not a result" in _one_line_error(path)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("bleu", "40", "results.0.bleu"),
        ("bleu", None, "results.0.bleu"),
        ("group_size", 0, "results.0.group_size"),
        ("exact_match", 75.0, "results.0.exact_match"),
        ("identical_to_k1", -0.1, "results.0.identical_to_k1"),
        ("ms_per_sentence_p50", float("nan"), "results.0.ms_per_sentence_p50"),
        ("blue", 1.0, "results.0.blue"),
    ],
)
def test_wrong_row(tmp_path, translation, key, value, told):
    # guards: percentages where shares belong, NaN, strings and misspelt keys read as if they were
    # right
    translation["results"][0][key] = value
    assert told in _one_line_error(_written(tmp_path, translation))


@pytest.mark.parametrize(
    ("key", "value"), [("kind", "poems"), ("created", "yesterday"), ("results", []), ("extra", 1)]
)
def test_wrong_top_level(tmp_path, translation, key, value):
    # guards: an unknown kind, an unreadable date or an empty table found out only while drawing
    translation[key] = value
    assert key in _one_line_error(_written(tmp_path, translation))


def test_counts_the_other_problems(tmp_path, translation):
    # guards: the first of several problems read as the only one
    del translation["name"], translation["kind"]
    assert "(and 1 more)" in _one_line_error(_written(tmp_path, translation))


def test_results_are_frozen(translation):
    # guards: a report changing the numbers it shows
    result = Result.model_validate(translation)
    with pytest.raises(ValidationError):
        result.rows[0].bleu = 100.0


def test_baseline_has_the_same_engine_and_beam(translation):
    # guards: a speed-up that credits K with what a faster engine or a smaller beam did
    first, second = translation["results"]
    translation["results"] += [
        second | {"engine": "int8"},
        first | {"engine": "int8", "bleu": 39.0},
        second | {"beam": 4},
    ]
    result = Result.model_validate(translation)
    one, four, four_int8, one_int8, four_beam = result.rows
    assert result.baseline(four) is one
    assert result.baseline(one) is one
    assert result.baseline(four_int8) is one_int8
    assert result.baseline(four_beam) is None
    assert result.several_ways


def test_baseline_prefers_the_same_mode(translation):
    # guards: exact rows, which have no K=1 of their own, left without a comparison
    one, four = translation["results"]
    translation["results"] = [one, four | {"mode": "exact"}]
    result = Result.model_validate(translation)
    assert result.baseline(result.rows[1]) is result.rows[0]
    translation["results"].append(one | {"mode": "exact"})
    result = Result.model_validate(translation)
    assert result.baseline(result.rows[1]) is result.rows[2]


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([["K", "AE1"], ["T"]], ("K AE1", "T")),
        ([["▁ein", "▁Sa"], ["tz", "▁ist"]], ("ein Sa", "‿tz ist")),
        ([["Ġein", "ĠSa"], ["tz"]], ("ein Sa", "‿tz")),
        ([["Sa"], ["tz", "▁ein"]], ("Sa", "‿tz ein")),
        ([["▁ein"], [".", "</s>"]], ("ein", ". </s>")),
        ([["▁"], []], ("", "")),
    ],
)
def test_group_texts(groups, expected):
    # guards: words glued together or torn apart, and a group inside a word read as a new word
    assert Output(group_size=2, text="", groups=groups).group_texts() == expected


def test_a_missing_figure_is_named(tmp_path, translation):
    # guards: a table with a hole where a figure of this kind must be
    del translation["results"][1]["chrf"]
    assert "results.1.chrf: it is missing" in _one_line_error(_written(tmp_path, translation))


def test_older_generation_results_become_examples_of_their_rows():
    # guards: prompts and texts of older files lost, or given to the wrong group size
    rows = [{"group_size": 1}, {"group_size": 4}]
    old = {
        "kind": "generation",
        "results": rows,
        "examples": [{"prompt": "a", "texts": ["b", "c"]}],
    }
    assert upgrade(old)["examples"] == [
        {
            "source": "a",
            "outputs": [{"group_size": 1, "text": "b"}, {"group_size": 4, "text": "c"}],
        }
    ]


def test_a_task_is_written_with_its_conditions_on_the_top(tmp_path):
    # guards: scripts that read `records`, `failed` and `model` of a task's file
    row = {"group_size": 1, "mode": "fast", "engine": "eager", "metrics": {"accuracy": 0.5}}
    row |= {"seconds": 1.0, "records_per_second": 2.0}
    old = {
        "kind": "task",
        "task": "classification",
        "name": "x",
        "created": "2026-01-01",
        "model": "m",
        "records": 2,
        "failed": 1,
        "settings": {"batch_size": 32},
        "results": [row],
    }
    result = read_result(_written(tmp_path, old))
    assert result.conditions == {"model": "m", "records": 2, "failed": 1, "batch_size": 32}
    assert result.written() == old
    assert read_result(_written(tmp_path, result.written())) == result


def test_what_is_no_result_is_returned_as_it_is():
    # guards: an exception of the reader instead of one line about the file
    for tree in ([], 3, None, {}, {"kind": "poems"}, {"kind": "task", "settings": None}):
        upgrade(tree)
