"""Measuring a task: which rows there are, what is compared with what, and that one bad record is
one bad record."""

import json
from pathlib import Path

import pytest
from multistride.evaluate.tasks import TaskEvaluation, Way, _ways, evaluate_task
from multistride.report.tasks import TaskResult

from multistride.errors import DataError, UsageError
from multistride.shipped import DEFAULT
from multistride.tasks.record import Writing


def request(source, **changes):
    settled = {
        "task": "generation",
        "model": DEFAULT,
        "source": source,
        "name": "x",
        "latency_records": 2,
    }
    return TaskEvaluation(**{**settled, **changes})


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "records.jsonl"
    lines = ["The dog runs across the field.", "A man sings.", "Where is the station?"]
    good = [json.dumps({"source": line, "references": [line]}) for line in lines]
    path.write_text("\n".join([good[0], "{", *good[1:]]) + "\n")
    return path


def test_ways_have_the_teacher_first_and_k1_once():
    """Guards against K=1 measured again for every mode, where it is the same."""
    asked = request(
        Path("x"),
        group_sizes=(1, 4),
        modes=("fast", "exact"),
        writing=Writing(teacher=Path("teacher")),
    )
    assert _ways(asked) == [
        Way(True, 1, "fast"),
        Way(False, 1, "fast"),
        Way(False, 4, "fast"),
        Way(False, 4, "exact"),
    ]


def test_a_mode_is_not_dropped_where_only_k1_is_measured():
    """Guards against --mode exact taken in silence by a task that does not know it."""
    assert _ways(request(Path("x"), modes=("exact",))) == [Way(False, 1, "exact")]


@pytest.mark.parametrize("asked", [{}, {"modes": ("exact",)}, {"group_sizes": (4,)}])
def test_drafts_are_not_dropped(records, asked):
    """Guards against --drafts taken in silence where no row drafts."""
    with pytest.raises(
        UsageError, match="drafts text was given, which is for mode exact and K above 1"
    ):
        evaluate_task(request(records, drafts="text", **asked))


def test_rows_are_compared_with_k1_and_the_teacher(records):
    heard = []
    result = evaluate_task(
        request(
            records, group_sizes=(1, 8), modes=("fast", "exact"), writing=Writing(teacher=DEFAULT)
        ),
        heard.append,
    )
    teacher, alone, fast, exact = result.results
    assert (result.records, result.failed) == (3, 1)
    assert any("line 2: it is not JSON" in line for line in heard)
    assert teacher.model == "teacher"
    assert teacher.metrics == alone.metrics, "here the teacher is the model itself"
    assert teacher.same_as_k1 is None
    assert alone.same_as_k1 == exact.same_as_k1 == 1.0
    assert (
        fast.metrics["steps_per_text"]
        < exact.metrics["steps_per_text"]
        < alone.metrics["steps_per_text"]
    )
    assert fast.ms_per_record_p50
    assert TaskResult.model_validate_json(result.model_dump_json()) == result


def test_options_of_writing_are_refused_by_other_tasks(records):
    with pytest.raises(
        UsageError, match="max_tokens was given, and task translation writes no texts that way"
    ):
        evaluate_task(request(records, task="translation", writing=Writing(max_tokens=4)))


def test_no_answer_at_all_is_an_error(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"source": 3}\n')
    with pytest.raises(DataError, match="no record has an answer; line 1: the field 'source' is 3"):
        evaluate_task(request(path))
