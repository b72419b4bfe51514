"""Measuring a task: models opened once, one bad record is one bad record, rows compared with
K=1."""

import json
from itertools import product

import pytest

from multistride.decode.options import DecodeOptions
from multistride.errors import DataError, UsageError
from multistride.evaluate.measure import measure
from multistride.evaluate.records import Records
from multistride.evaluate.request import EvaluationRequest, Files
from multistride.evaluate.run import evaluate_task
from multistride.report.result import Result
from multistride.shipped import DEFAULT
from multistride.tasks import names
from multistride.tasks.record import (
    Answer,
    Example,
    Opened,
    Opening,
    RecordError,
    refuse_options,
)


def measured(source, modes=("fast",), sizes=(1,), task="generation", teacher=None, **ways):
    request = {"task": task, "source": source, "name": "x", "latency_sentences": 2}
    if teacher is not None:
        request["teacher"] = teacher
    listed = [
        DecodeOptions.made(mode=mode, group_size=size, **ways)
        for mode, size in product(modes, sizes)
    ]
    return evaluate_task(EvaluationRequest(**request), listed, names.task_named(task))


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "records.jsonl"
    lines = ["The dog runs across the field.", "A man sings.", "Where is the station?"]
    good = [json.dumps({"source": line, "references": [line]}) for line in lines]
    path.write_text("\n".join([good[0], "{", *good[1:]]) + "\n")
    return path


def test_rows_are_compared_with_k1_and_the_teacher(records, caplog):
    result = measured(records, ("fast", "exact"), (1, 8), teacher=DEFAULT)
    teacher, alone, fast, exact = result.rows
    assert (result.conditions["records"], result.conditions["failed"]) == (3, 1)
    assert any("line 2: it is not JSON" in record.message for record in caplog.records)
    assert teacher.model == "teacher"
    assert teacher.metrics == alone.metrics, "here the teacher is the model itself"
    assert teacher.same_as_k1 is None
    assert alone.same_as_k1 == exact.same_as_k1 == 1.0
    steps = [row.metrics["steps_per_text"] for row in (fast, exact, alone)]
    assert steps == sorted(steps)
    assert steps[0] < steps[1] < steps[2]
    assert fast.ms_per_record_p50
    assert Result.model_validate_json(result.model_dump_json(by_alias=True)) == result
    assert result.written()["records"] == 3, "scripts read it on the top"
    models = [row["model"] for row in result.written()["results"]]
    assert models == ["teacher", "own", "own", "own"], "scripts tell rows by it"


def test_a_record_that_cannot_be_measured_is_refused_before_anything_is_decoded(
    tmp_path, monkeypatch
):
    # Guards: minutes of decoding, and then an error about a field that was missing all along.
    path = tmp_path / "records.jsonl"
    path.write_text('{"source": "Yes.", "target": "Ja."}\n{"source": "No."}\n')
    monkeypatch.setattr(Records, "write", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="a record has source and no 'target'"):
        measured(path, task="translation")


def test_each_model_is_opened_once(records, monkeypatch):
    # Guards: the model loaded again for every row, and the teacher each time.
    opened = []
    real = names.load
    monkeypatch.setattr(names, "load", lambda *given: opened.append(given[0]) or real(*given))
    measured(records, ("fast", "exact"), (1, 2, 4), teacher=DEFAULT)
    assert len(opened) == 2


def test_a_teacher_is_refused_by_other_tasks(records):
    with pytest.raises(UsageError, match="--teacher was given, which is for --task generation"):
        measured(records, task="translation", teacher=DEFAULT)


@pytest.mark.parametrize("asked", [{}, {"modes": ("exact",)}, {"sizes": (4,)}])
def test_drafts_are_not_dropped(records, asked):
    # Guards: --drafts taken in silence where no row drafts.
    with pytest.raises(
        UsageError, match="drafts text was given, which is for mode exact and K above 1"
    ):
        measured(records, drafts="text", **asked)


def test_no_record_at_all_is_an_error(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"source": 3}\n')
    with pytest.raises(DataError, match=r"no record .*; line 1: the field 'source' is 3"):
        measured(path)


def test_no_answer_at_all_is_an_error(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps({"source": "dog " * 3000}) + "\n")
    with pytest.raises(DataError, match="no record has an answer; line 1: it has 3,00"):
        measured(path)


def test_options_of_decoding_reach_a_task_that_writes(tmp_path):
    # Guards: a copy of the options that leaves some out.
    path = tmp_path / "records.jsonl"
    record = {"source": "The dog runs across the field.", "target": "Der Hund rennt."}
    path.write_text(json.dumps(record) + "\n")
    free = measured(path, task="translation")
    short = measured(path, task="translation", max_tokens=2)
    assert short.rows[0].metrics["bleu"] < free.rows[0].metrics["bleu"]
    assert short.conditions["writing"]["max_tokens"] == 2


@pytest.mark.parametrize("given", [{"mode": "fast"}, {"beam": 1}, {"max_tokens": 4}])
def test_options_that_a_task_has_no_use_for_are_refused(given):
    # Guards: an option taken in silence, at its default value too.
    way = DecodeOptions.made(group_size=2, **given)
    with pytest.raises(UsageError, match="was given, and a classifier decodes nothing: leave it"):
        refuse_options(way, ("group_size", "batch_size"), "a classifier decodes nothing")


def test_a_record_that_one_of_the_models_cannot_answer_has_failed(tmp_path, monkeypatch, caplog):
    # Guards: exit code 0 because the teacher answered all.
    path = tmp_path / "records.jsonl"
    lines = [json.dumps({"source": "a" * length}) for length in (1, 2, 5, 6, 7)]
    path.write_text("\n".join(lines) + "\n")

    class Copied:
        name = "generation"

        def example(self, record, line):
            return Example(line, record["source"])

        def answer(self, output, record):
            return Answer(output)

        def metrics(self, answers, records):
            return {"answered": float(len(answers))}

    def up_to(longest):
        return lambda examples, way: [
            RecordError(each.line, "too long") if len(each.source) > longest else "x"
            for each in examples
        ]

    task = Copied()
    opened = Opened(
        task, up_to(3), lambda way: way, teacher=Opened(task, up_to(9), lambda way: way)
    )
    opening = Opening(model=DEFAULT, teacher=DEFAULT)
    ways = [DecodeOptions(group_size=2)]
    subject = Records("generation", opening, opened, ways, Files(source=path))
    result = measure(subject, "x", 1)
    assert [row.metrics["answered"] for row in result.rows] == [5, 2]
    assert (result.conditions["records"], result.conditions["failed"]) == (2, 3)
    assert [record.message for record in caplog.records if "too long" in record.message] == [
        f"line {number}: too long" for number in (3, 4, 5)
    ]
