"""What a shown result says of how to make it again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from multistride.cli import app
from multistride.errors import UserError
from multistride.report.outputs import Outputs
from multistride.report.reading import read_result
from multistride.report.result import Result
from multistride.report.show import commands, show, show_file


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


def test_commands_measure_what_is_shown(translation):
    # Guards: a page of phonemes, or of exact mode, whose command measures something else.
    translation |= {"kind": "phonemes"}
    translation["settings"] |= {"drafts": "all-masks", "limit": 9, "reference": "b"}
    for row in translation["results"]:
        row["engine"], row["mode"] = "int8", "exact"
        row["bleu_signature"] = row["bleu_signature"].replace("tok:13a", "tok:none")
    evaluate, translate = commands(Result.model_validate(translation))
    for part in (
        *("--kind phonemes", "--mode exact", "--drafts all-masks", "--engine int8"),
        *("--tokenize none", "--limit 9", "--reference b", "--json"),
    ):
        assert part in evaluate
    assert "None" not in evaluate
    assert "--mode exact --engine int8 --drafts all-masks" in translate


def test_what_a_script_left_out_is_not_shown(translation, tmp_path):
    # Guards: a traceback about a result file that the reader accepted.
    row = {"batch_size": 1, "group_size": 2, "metrics": {"step": 2.0}}
    profile = {"name": "p", "kind": "profile", "results": [row]}
    benchmark = json.loads(Path("results/bench-base.json").read_text())
    for each in benchmark["results"]:
        each.pop("ratio_spread")
    for tree in (benchmark, profile):
        path = tmp_path / "result.json"
        path.write_text(json.dumps(tree))
        show_file(path, as_markdown=True)
        show_file(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--figure", "x.jpg"], "neither .svg nor .png"),
        (["--page", "."], "is a directory"),
        (["--figure", "result.json"], "is also read"),
    ],
)
def test_files_are_checked_before_anything_is_printed(
    tmp_path, translation, options, said, monkeypatch
):
    # Guards: a table on the terminal and then an error, or a result replaced by its picture.
    monkeypatch.chdir(tmp_path)
    text = json.dumps(translation)
    (tmp_path / "result.json").write_text(text)
    done = CliRunner().invoke(app, ["report", "result.json", *options])
    assert said in str(done.exception)
    assert done.stdout == ""
    assert (tmp_path / "result.json").read_text() == text


def test_a_result_of_a_file_that_is_no_utf8_can_be_read_again(tmp_path, translation, capsys):
    # Guards: `evaluate --json > r.json; report r.json` refusing a name that it has written.
    result = Result.model_validate(translation)
    settings = {**result.conditions, "source": "v\udcff.txt"}
    show(result.model_copy(update={"conditions": settings}), Outputs(as_json=True))
    (tmp_path / "r.json").write_text(capsys.readouterr().out)
    assert read_result(tmp_path / "r.json").conditions["source"] == "v\ufffd.txt"


def test_a_result_whose_file_cannot_be_written_is_printed(tmp_path, translation, capsys):
    # Guards: minutes of measuring lost to a disk that filled up meanwhile.
    path = tmp_path / "result.json"
    path.write_text(json.dumps(translation))
    with pytest.raises(UserError, match="could not write /dev/full"):
        show(read_result(path), Outputs(output=Path("/dev/full")))
    assert "40.0" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--markdown"]])
def test_a_reader_that_leaves_is_no_failure(options):
    # Guards: exit code 1 for `report FILE | head -1`; rich ends the process where a pipe is closed.
    file = Path(__file__).parents[3] / "results/multi30k-adapted.json"
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "multistride", "report", str(file), *options]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
