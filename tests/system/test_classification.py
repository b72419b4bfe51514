"""Classifiers as their user has them: from records to answers, whatever is among them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

WORDS = {"fruit": "apple pear plum grape cherry", "tools": "hammer saw nail screw drill"}
SHAPE = "{hidden_size: 16, feedforward_size: 32, heads: 2, encoder_layers: 1, max_positions: 17%s}"


def records(first, count):
    """Documents of a few words of one class, between words that say nothing."""
    for number in range(first, first + count):
        for label, words in WORDS.items():
            word = words.split()[number % 5]
            yield {
                "text": f"we saw number {number} and then a {word} there " * (1 + number % 7),
                "label": label,
            }


def config(place, name, classifier, layers, extra):
    windows = "" if "labels" in classifier else ", windows_per_document: 2"
    (place / f"{name}.yaml").write_text(
        f"data: {place / 'data'}\nrun: {place / name}\nmodel: {SHAPE % layers}\nclassifier: "
        f"{classifier}\n{extra}"
        "training: {updates: 60, tokens_per_batch: 512, learning_rate: 0.01, warmup_updates: 5, "
        "schedule: constant,"
        f" validate_every: 30, precision: float32, device: cpu{windows}}}\n"
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory, multistride):
    place = tmp_path_factory.mktemp("classes")
    for name, first, count in (("train", 0, 60), ("validation", 60, 20), ("test", 80, 20)):
        lines = (json.dumps(record) + "\n" for record in records(first, count))
        (place / f"{name}.jsonl").write_text("".join(lines))
    multistride(
        *("prepare", "--output", place / "data", "--vocabulary-size", 320),
        *(
            "--train-records",
            place / "train.jsonl",
            "--validation-records",
            place / "validation.jsonl",
        ),
        check=0,
    )
    cut = "window: 16, overlap: 4"
    config(place, "pooled", f"{{{cut}, windows: attention, dropout: 0.0}}", "", "")
    config(
        place,
        "labels",
        f"{{kind: labels, {cut}}}",
        ", decoder_layers: 1",
        "groups: {sizes: {1: 0.5, 2: 0.5}}\n",
    )
    multistride("train", place / "pooled.yaml", check=0)
    multistride("train", place / "labels.yaml", "--set", "training.updates=120", check=0)
    return place


def test_both_ways_learn_and_are_measured(multistride, work):
    """A head that learns nothing, names that are scored for another document, a result without its
    parts."""
    for name, sizes in (("pooled", "1"), ("labels", "1,2")):
        result = multistride(
            *(
                "evaluate",
                "--task",
                "classification",
                "--model",
                work / name / "best",
                "--group-size",
                sizes,
            ),
            *("--source", work / "test.jsonl", "--json", "--output", work / f"{name}.json"),
            check=0,
        )
        rows = json.loads(result.stdout)["results"]
        assert [str(row["group_size"]) for row in rows] == sizes.split(",")
        assert rows[0]["metrics"]["accuracy"] > 0.8
        assert rows[0]["details"]["classes"] == ["fruit", "tools"]
        assert sum(map(sum, rows[0]["details"]["confusion"])) == 40
    shown = multistride("report", work / "pooled.json", "--figure", work / "confusion.png", check=0)
    assert "By class" in shown.stdout.decode()
    assert (work / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_a_wide_path_goes_all_the_way(multistride, work, tmp_path):
    """An option that only training knows: lost when the model is saved, or not read by classify and
    evaluate."""
    options = ("--set", f"run={tmp_path / 'run'}", "--set", "classifier.wide={words: 60}")
    multistride("train", work / "pooled.yaml", *options, "--set", "training.updates=1", check=0)
    model = tmp_path / "run/best"
    command = (
        "evaluate",
        "--task",
        "classification",
        "--model",
        model,
        "--source",
        work / "test.jsonl",
        "--json",
    )
    [row] = json.loads(multistride(*command, check=0).stdout)["results"]
    assert row["metrics"]["accuracy"] == 1.0, "one update of the deep path cannot know that"
    answers = multistride(
        "classify", "--model", model, text="an apple\na SAW, a drill", check=0
    ).stdout
    assert answers.decode().split() == ["fruit", "tools"]
    shown = json.loads(multistride("inspect", model, "--json", check=0).stdout)
    assert shown["kind"] == "classifier (pooled, with a wide path)"
    done = multistride("train", work / "labels.yaml", *options, check=2)
    assert (
        "wide is a path beside a pooled head; labels have none: leave it out"
        in done.stderr.decode()
    )


def test_probabilities_can_be_calibrated(multistride, work):
    """A temperature that is not used, or that a second measurement builds upon."""
    model = work / "pooled/best"
    text = json.dumps({"text": "an apple"})
    before = json.loads(
        multistride("classify", "--model", model, "--records", "--json", text=text, check=0).stdout
    )
    command = ("calibrate", "--model", model, "--source", work / "validation.jsonl", "--json")
    first, second = (json.loads(multistride(*command, check=0).stdout) for _ in range(2))
    assert first == second
    assert first["log_loss_after"] <= first["log_loss_before"] + 0.05
    after = json.loads(
        multistride("classify", "--model", model, "--records", "--json", text=text, check=0).stdout
    )
    assert after["answer"] == before["answer"]
    assert (after["probability"] != before["probability"]) == (first["temperature"] != 1.0)
    (model / "temperature.json").unlink()


def test_one_bad_document_stops_no_other(multistride, work):
    """Answers that move up a line; an empty document that has a class."""
    text = b"we saw a hammer\n\n\xff\xfe\nwe saw an apple"
    done = multistride("classify", "--model", work / "pooled/best", text=text, check=4)
    assert done.stdout.decode().split("\n")[1:3] == ["", ""]
    assert len(done.stdout.decode().splitlines()) == 4
    assert done.stderr.decode().splitlines() == [
        "line 2: the field 'text' is blank; it must be a text",
        "line 3: it is not valid UTF-8; give text in UTF-8",
        "multistride: error: 2 of the documents have no answer (named above); their lines are "
        "empty",
    ]


def test_files_are_documents(multistride, work, tmp_path):
    """A file cut into lines; one that is missing and stops the rest."""
    (tmp_path / "a.txt").write_text("we saw a hammer\nand a saw\n")
    (tmp_path / "b.jsonl").write_text('{"text": "an apple", "label": "fruit"}\n[]\n')
    command = (
        "classify",
        "--model",
        work / "pooled/best",
        "a.txt",
        "none.txt",
        "b.jsonl",
        "--json",
    )
    done = multistride(*command, cwd=tmp_path, check=4)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer.get("file") for answer in answers] == ["a.txt", "none.txt", "b.jsonl", "b.jsonl"]
    assert [answer["answer"] is None for answer in answers] == [False, True, False, True]
    assert "none.txt does not exist" in done.stderr.decode()
    assert "b.jsonl: line 2: it is an array" in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "text", "code", "message"),
    [
        ((), b"\x7fELF\0\0", 4, "the input holds binary data (a zero byte in line 1)"),
        (("--group-size", "2"), b"a", 2, "has a pooled head, which writes nothing: give 1"),
        (("--classes", "other.txt"), b"a", 4, "'tools' missing and 'animals' not known"),
        (("--records",), b"{", 4, "line 1: it is not JSON"),
        (("x.txt", "--records"), b"", 2, "files were given, which are read as they are"),
    ],
)
def test_what_cannot_be_answered_is_said(
    multistride, work, tmp_path, arguments, text, code, message
):
    (tmp_path / "other.txt").write_text("fruit\nanimals\n")
    done = multistride(
        "classify", "--model", work / "pooled/best", *arguments, text=text, cwd=tmp_path, check=code
    )
    assert message in done.stderr.decode()


def test_a_label_not_seen_in_training_is_a_bad_record(multistride, work, tmp_path):
    path = tmp_path / "new.jsonl"
    path.write_text('{"text": "a", "label": "animals"}\n{"text": "an apple", "label": "fruit"}\n')
    command = (
        "evaluate",
        "--task",
        "classification",
        "--model",
        work / "pooled/best",
        "--source",
        path,
        "--json",
    )
    done = multistride(*command, check=4)
    assert json.loads(done.stdout)["failed"] == 1
    assert (
        "line 1: the label 'animals' was not seen in training; there are fruit, tools"
        in done.stderr.decode()
    )


def test_training_on_other_classes_is_refused(multistride, work, tmp_path):
    """A run that goes on, or starts from a model, under names that mean something else."""
    path = tmp_path / "train.jsonl"
    path.write_text(
        "".join(json.dumps({**r, "label": r["label"].upper()}) + "\n" for r in records(0, 20))
    )
    files = ("--train-records", path, "--validation-records", path, "--vocabulary", work / "data")
    multistride("prepare", "--output", tmp_path / "data", *files, check=0)
    other = (
        "--set",
        f"data={tmp_path / 'data'}",
        "--set",
        f"run={tmp_path / 'run'}",
        "--set",
        "model=null",
    )
    start = ("--set", f"start_from={work / 'pooled/best'}")
    done = multistride("train", work / "pooled.yaml", *other, *start, check=4)
    assert "'fruit', 'tools' missing and 'FRUIT', 'TOOLS' not known" in done.stderr.decode()


def test_a_classifier_writes_nothing(multistride, work):
    done = multistride("translate", "--model", work / "pooled/best", text="a", check=2)
    assert "is a classifier, which writes nothing: use classify" in done.stderr.decode()
    done = multistride("classify", "--model", work / "data", text="a", check=4)
    assert "is no model directory" in done.stderr.decode()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc/self/status")
def test_a_document_of_five_million_characters(work):
    """Memory that grows with the windows of a document.

    `ru_maxrss` would not see it: a process inherits that of the one which started it.
    """
    program = (
        "import sys\n"
        "from multistride.evaluate.bench.workers.memory import peak_mb\n"
        "from multistride.tasks.classification.classifier import Classifier\n"
        "classifier = Classifier.load(sys.argv[1], batch_size=256)\n"
        "peaks = []\n"
        "for size in (100_000, 5_000_000):\n"
        "    scores = classifier.log_probabilities([('we saw an apple ' * (size // 16 + "
        "1))[:size]])\n"
        "    peaks.append(peak_mb())\n"
        "print(int(scores.isfinite().all()), peaks[1] - peaks[0])\n"
    )
    # A fixed threshold: otherwise the allocator keeps freed tensors, now more of them, now fewer.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", program, str(work / "pooled/best")]
    done = subprocess.run(command, capture_output=True, check=True, env=environment, timeout=300)
    finite, megabytes = done.stdout.split()
    assert int(finite) == 1
    assert float(megabytes) < 300
