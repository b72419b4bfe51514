"""Reading result files, and the comparisons a result can make by itself."""

import json

import pytest
from pydantic import ValidationError

from multistride.errors import DataError
from multistride.report.result import EvaluationResult, ExampleOutput, read_results


def _written(tmp_path, value):
    path = tmp_path / "result.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def _one_line_error(path):
    with pytest.raises(DataError) as caught:
        read_results(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "multistride evaluate" in message
    return message


def test_reads_what_it_wrote(tmp_path, translation):
    # guards: a field lost or renamed between writing and reading
    result = read_results(_written(tmp_path, translation))
    assert json.loads(result.model_dump_json()) == translation
    assert read_results(_written(tmp_path, result.model_dump_json())) == result


def test_examples_may_be_absent(tmp_path, translation):
    # guards: a result without worked examples refused
    del translation["examples"]
    assert read_results(_written(tmp_path, translation)).examples == ()


def test_settings_are_free(tmp_path, translation):
    # guards: a newly recorded setting making old readers fail
    translation["settings"]["brand new"] = {"deep": [None, True, 1.5]}
    assert read_results(_written(tmp_path, translation)).settings["brand new"] == {
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
    assert "is not an evaluation result" in _one_line_error(path)


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
    result = EvaluationResult.model_validate(translation)
    with pytest.raises(ValidationError):
        result.results[0].bleu = 100.0


def test_baseline_has_the_same_engine_and_beam(translation):
    # guards: a speed-up that credits K with what a faster engine or a smaller beam did
    first, second = translation["results"]
    translation["results"] += [
        second | {"engine": "int8"},
        first | {"engine": "int8", "bleu": 39.0},
        second | {"beam": 4},
    ]
    result = EvaluationResult.model_validate(translation)
    one, four, four_int8, one_int8, four_beam = result.results
    assert result.baseline(four) is one
    assert result.baseline(one) is one
    assert result.baseline(four_int8) is one_int8
    assert result.baseline(four_beam) is None
    assert result.several_ways


def test_baseline_prefers_the_same_mode(translation):
    # guards: exact rows, which have no K=1 of their own, left without a comparison
    one, four = translation["results"]
    translation["results"] = [one, four | {"mode": "exact"}]
    result = EvaluationResult.model_validate(translation)
    assert result.baseline(result.results[1]) is result.results[0]
    translation["results"].append(one | {"mode": "exact"})
    result = EvaluationResult.model_validate(translation)
    assert result.baseline(result.results[1]) is result.results[2]


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
    assert ExampleOutput(group_size=2, text="", groups=groups).group_texts() == expected
