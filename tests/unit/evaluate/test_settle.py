"""What is refused before a model is opened, so that no measurement is lost at its end."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from multistride.cli import app
from multistride.decode.options import DecodeOptions
from multistride.errors import UsageError, UserError
from multistride.evaluate import run as run_module
from multistride.evaluate.request import EvaluationRequest
from multistride.evaluate.run import evaluate
from multistride.evaluate.settle import settle, settled_name


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("runs/multi30k/best", "multi30k"),
        ("runs/multi30k/last", "multi30k"),
        ("runs/multi30k/checkpoints/step_500", "multi30k"),
        ("base", "base"),
        ("models/english-german", "english-german"),
        ("/", "model"),
    ],
)
def test_a_result_is_named_by_its_model_or_run(model, name, monkeypatch, tmp_path):
    # Guards: a traceback after minutes for --model base, whose parent has no name.
    monkeypatch.chdir(tmp_path)
    assert settled_name(None, Path(model)) == name


def test_best_in_the_directory_of_a_run_is_named_by_the_run(monkeypatch, tmp_path):
    # Guards: --model best, a path of one component.
    (tmp_path / "multi30k").mkdir()
    monkeypatch.chdir(tmp_path / "multi30k")
    assert settled_name(None, Path("best")) == "multi30k"


@pytest.mark.parametrize("name", ["", "  "])
def test_a_blank_name_is_refused(name):
    with pytest.raises(UsageError, match="--name is blank"):
        settled_name(name, Path("base"))


@pytest.mark.parametrize("verb", ["evaluate", "bench"])
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--name", ""], 2, "--name is blank"),
        (["--tokenize", "14b"], 2, "unknown BLEU tokenizer '14b'"),
        (["--output", "{place}"], 1, "is a directory"),
        (["--output", "{place}/source/x.json"], 1, "could not write"),
        (["--output", "{place}/source"], 2, "is also read"),
    ],
    ids=str,
)
def test_the_verbs_settle_before_anything_is_decoded(
    verb, options, code, said, tmp_path, monkeypatch
):
    # Guards: minutes of work before a label, a tokenizer or a file is found to be wrong.
    (tmp_path / "source").write_text("a\nb\n")
    (tmp_path / "reference").write_text("a\nb\n")
    files = ["--source", str(tmp_path / "source"), "--reference", str(tmp_path / "reference")]
    opened = []
    monkeypatch.setattr(run_module.Translator, "load", lambda *given: opened.append(given))
    given = [option.format(place=tmp_path) for option in options]
    done = CliRunner().invoke(app, [verb, *files, *given])
    assert isinstance(done.exception, UserError), done.exception
    assert done.exception.exit_code == code
    assert said in str(done.exception)
    assert not opened


def test_a_picture_without_references_is_refused_by_bench(tmp_path):
    # Guards: a measurement of minutes that ends without the picture it was made for.
    (tmp_path / "source").write_text("a\n")
    command = ["bench", "--source", str(tmp_path / "source")]
    done = CliRunner().invoke(app, [*command, "--picture", str(tmp_path / "x.svg")])
    assert "no --reference was given" in str(done.exception)


def test_a_device_can_be_an_output():
    settle([Path("/dev/null"), None])


def test_nothing_is_left_by_the_check(tmp_path):
    settle([tmp_path / "new" / "result.json"])
    assert list(tmp_path.iterdir()) == []


def request(**changes):
    return EvaluationRequest(**{"source": Path("x"), **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"chat": False, "reference": Path("y")},
            "--chat is not for --kind translation .it is for --kind generation",
        ),
        ({"teacher": Path("t")}, "--teacher was given, which is for --task generation"),
        ({"task": "translation", "kind": "translation"}, "--kind is not for --task"),
        ({"task": "translation", "tokenize": "13a"}, "--tokenize is not for --task"),
        ({"task": "translation", "reference": Path("y")}, "--reference is not for --task"),
        ({"kind": "generation", "tokenize": "13a"}, "--tokenize is not for --kind generation"),
        ({}, "--reference is missing"),
    ],
    ids=str,
)
def test_an_option_without_a_meaning_is_refused_at_its_default_too(changes, said):
    # Guards: "was it given?" guessed as "does it differ from the default?".
    with pytest.raises(UsageError, match=said):
        evaluate(request(**changes), [DecodeOptions()])
