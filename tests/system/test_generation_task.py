"""Text generation and documents by the command: from the example's corpus to the table."""

import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

EXAMPLE = Path(__file__).parents[2] / "examples" / "generation"

CONCEPTS = {
    "train": [
        "dog run\tA dog runs.",
        "dog run\tThe dog ran.",
        "cat sit\tA cat sits.",
        "b a\tHeld out.",
    ],
    "dev": ["a b\tIt is held out.", "a b\tIt is out."],
    "test": ["sea boat\tA boat is at sea."],
}


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "records.jsonl"
    good = [
        {"source": "a h n", "references": ["n h a", "n a"]},
        {"source": "c i p", "references": ["p i c"]},
    ]
    path.write_text(json.dumps(good[0]) + "\n" + '{"source": 3}\n' + json.dumps(good[1]) + "\n")
    return path


def test_the_corpus_keeps_what_is_measured_out_of_training(tmp_path):
    """Guards against concepts that are in training in another order."""
    for part, lines in CONCEPTS.items():
        (tmp_path / f"{part}.tsv.xz").write_bytes(
            lzma.compress("".join(f"{line}\n" for line in lines).encode())
        )
    command = [sys.executable, EXAMPLE / "corpus.py", "commongen", tmp_path, tmp_path / "text"]
    subprocess.run(command, check=True, timeout=60)
    text = tmp_path / "text"
    assert (text / "distill.source").read_text() == "dog run\ncat sit\n"
    assert len((text / "train.source").read_text().splitlines()) == 6
    [measured] = [json.loads(line) for line in (text / "validation.jsonl").read_text().splitlines()]
    assert measured == {
        "source": "a b",
        "concepts": ["a", "b"],
        "references": ["It is held out.", "It is out."],
    }


def test_evaluate_reports_a_bad_record_and_measures_the_rest(work, multistride, records, tmp_path):
    output = tmp_path / "result.json"
    done = multistride(
        *("evaluate", "--task", "generation", "--model", work / "many/best", "--source", records),
        *("--teacher", work / "autoregressive/best", "--group-size", "1,2", "--device", "cpu"),
        *("--latency-sentences", "1", "--output", output),
        check=4,
    )
    assert "line 2: the field 'source' is 3; it must be a text" in done.stderr.decode()
    result = json.loads(output.read_text())
    assert [(row["model"], row["group_size"]) for row in result["results"]] == [
        ("teacher", 1),
        ("own", 1),
        ("own", 2),
    ]
    assert (result["records"], result["failed"]) == (2, 1)
    assert 0 <= result["results"][2]["metrics"]["rouge_l"] <= 1
    picture = tmp_path / "kept.svg"
    shown = multistride(
        "report", output, "--markdown", "--figure", picture, check=0
    ).stdout.decode()
    assert shown.count("\n| ") == 4
    assert picture.read_text().startswith("<svg")


def test_what_does_not_apply_is_refused(work, multistride, records):
    model = ("--model", work / "many/best", "--source", records)
    done = multistride("evaluate", *model, "--teacher", work / "many/best", check=2)
    assert "--teacher was given, which is for --task generation" in done.stderr.decode()
    done = multistride("evaluate", "--task", "translation", *model, "--chat", check=2)
    assert "--chat is not for --task" in done.stderr.decode()
    done = multistride("evaluate", "--task", "generation", *model, "--reference", records, check=2)
    assert "--reference is not for --task" in done.stderr.decode()
    done = multistride(
        "evaluate", "--task", "generation", *model, "--policy", "cost-model", check=2
    )
    assert "policy cost-model was given, and only K=1 is measured" in done.stderr.decode()
    done = multistride("evaluate", "--task", "generation", *model, "--threshold", "0.5", check=2)
    assert "threshold 0.5 was given, which is for mode adaptive" in done.stderr.decode()


def test_windows_keep_lines_and_can_be_resumed(multistride, tmp_path):
    text = "The dog runs.\nA man sings.\n\nWhere is the station?\nGood morning.\n"
    done = multistride("translate", "--window", "2", "--group-size", "4", text=text, check=0)
    lines = done.stdout.decode().splitlines()
    assert [bool(line) for line in lines] == [True, True, False, True, True]
    assert "2 windows of several lines" in done.stderr.decode()
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text(text)
    multistride(
        "translate",
        "--window",
        "2",
        "--group-size",
        "4",
        "--input",
        source,
        "--output",
        output,
        check=0,
    )
    assert output.read_text().splitlines() == lines
    refused = multistride("translate", "--window", "2", "--json", text=text, check=2)
    assert "--window writes plain lines" in refused.stderr.decode()
