"""Records in, answers out: a bad record is a line in the report and nothing more."""

import json

import pytest

from multistride.data.corpus import read_lines
from multistride.decode.options import DecodeOptions
from multistride.errors import UsageError
from multistride.tasks.names import task_named
from multistride.tasks.record import (
    Answer,
    Example,
    Opened,
    RecordError,
    read_records,
    solved,
    text_field,
)


class Shouting:
    name = "shouting"

    def example(self, record, line):
        return Example(line, text_field(record, "text", line))

    def answer(self, output, record):
        return Answer(output, {"id": record.get("id")})

    def metrics(self, answers, records):
        return {"letters": float(sum(len(answer.text) for answer in answers))}


WAY = DecodeOptions(group_size=2)


def shout(examples, way):
    assert way is WAY
    return [
        RecordError(example.line, "too loud") if example.source == "!" else example.source.upper()
        for example in examples
    ]


LINES = [
    b'{"text": "a", "id": 7}',
    b"\xff\xfe",
    b"",
    b"[1]",
    b'{"text": "  "}',
    b'{"body": "b"}',
    b'{"text": "!"}',
    b'{"text": "\\ud800"}',
    b'{"text": "b"}',
]


@pytest.mark.parametrize("together", [1, 2, 256])
def test_bad_records_keep_their_line_and_stop_nobody(together):
    """A batch that ended at its first bad record, or answered the wrong line after one."""
    opened = Opened(Shouting(), shout, lambda way: way)
    results = list(solved(opened, read_records(LINES), WAY, together))
    assert [each.line for each in results] == [1, 2, 4, 5, 6, 7, 8, 9]
    assert {each.line: each.answer.text for each in results if each.answer} == {1: "A", 9: "B"}
    assert results[0].answer.facts == {"id": 7}
    problems = {each.line: str(each.problem) for each in results if each.problem}
    assert problems == {
        2: "line 2: it is not valid UTF-8; a record is one JSON object in UTF-8",
        4: "line 4: it is an array; a record is one JSON object a line",
        5: "line 5: the field 'text' is blank; it must be a text",
        6: "line 6: the field 'text' is missing; it has body: name it so",
        7: "line 7: too loud",
        8: "line 8: it is not valid UTF-8; a record is one JSON object in UTF-8",
    }


@pytest.mark.parametrize(
    ("raw", "kind"),
    [(b"null", "null"), (b'"a"', "a string"), (b"true", "a boolean"), (b"1", "a number")],
)
def test_what_is_no_object_is_called_as_json_calls_it(raw, kind):
    # Guards: "it is a JSON NoneType".
    [(_, problem)] = read_records([raw])
    assert str(problem) == f"line 1: it is {kind}; a record is one JSON object a line"


def test_a_field_of_another_type_is_shown():
    with pytest.raises(
        RecordError, match=r"line 3: the field 'text' is \[1, 2\]; it must be a text"
    ):
        text_field({"text": [1, 2]}, "text", 3)


def test_unknown_tasks_are_refused_with_the_names_there_are():
    with pytest.raises(UsageError, match=r"--task is 'translate'; there are .*translation"):
        task_named("translate")


def test_records_are_read_from_files(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps({"text": "ä"}) + "\n")
    assert list(read_records(read_lines(path))) == [(1, {"text": "ä"})]
