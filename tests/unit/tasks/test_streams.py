"""Documents from lines and files, and a line for each of them whatever it was."""

import io
import json

import pytest

from multistride.errors import DataError
from multistride.tasks.record import Answer, RecordError, Solved, read_records
from multistride.tasks.streams import records_of_files, records_of_lines, write_answers


def test_lines_keep_their_numbers():
    # Guards: a blank line that is skipped, after which every answer stands beside another document.
    found = list(records_of_lines([b"a\r\n", b"\n", b"\xff\n", b"b\0c\n", b"d"], "text"))
    assert [line for line, _ in found] == [1, 2, 3, 4, 5]
    assert [record["text"] for _, record in found if isinstance(record, dict)] == ["a", "", "d"]
    assert [str(record) for _, record in found if isinstance(record, RecordError)] == [
        "line 3: it is not valid UTF-8; give text in UTF-8",
        "line 4: it holds a zero byte, so it is no text; give text in UTF-8",
    ]


def test_binary_data_is_refused_at_once():
    with pytest.raises(DataError, match="the input holds binary data"):
        next(records_of_lines([b"\x7fELF\0"], "text"))


def test_a_file_that_cannot_be_read_is_one_bad_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    found = [
        record for _, record in records_of_files([tmp_path / "no.txt", tmp_path / "a.txt"], "body")
    ]
    assert str(found[0]) == f"{tmp_path / 'no.txt'} does not exist: check the path"
    assert found[1] == {"body": "one\ntwo"}
    assert found[1].file == str(tmp_path / "a.txt")


def test_a_file_without_an_answer_keeps_its_name(tmp_path, caplog):
    # Guards: an empty line among lines that begin with their file.
    (tmp_path / "b.jsonl").write_text('{"text": "b"}\nno\n')
    (tmp_path / "z.txt").write_bytes(b"a\0b")
    paths = [tmp_path / name for name in ("no.txt", "b.jsonl", "z.txt")]
    records = [
        Solved(line, problem=record)
        if isinstance(record, RecordError)
        else Solved(line, record, Answer("x"))
        for line, record in records_of_files(paths, "text")
    ]
    text, objects = io.StringIO(), io.StringIO()
    assert write_answers(records, text, False) == 3
    assert text.getvalue().splitlines() == [
        f"{tmp_path}/no.txt\t",
        f"{tmp_path}/b.jsonl\tx",
        f"{tmp_path}/b.jsonl\t",
        f"{tmp_path}/z.txt\t",
    ]
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}/no.txt does not exist: check the path",
        f"{tmp_path}/b.jsonl: line 2: it is not JSON; a record is one JSON object a line",
        f"{tmp_path}/z.txt: it holds a zero byte, so it is no text; give text in UTF-8",
    ]
    write_answers(records, objects, True)
    lines = [json.loads(line) for line in objects.getvalue().splitlines()]
    assert [(line["file"], line["line"]) for line in lines] == [
        (str(paths[0]), 1),
        (str(paths[1]), 1),
        (str(paths[1]), 2),
        (str(paths[2]), 1),
    ]


def test_an_empty_file_is_one_empty_document_or_no_record(tmp_path):
    # Guards: an empty document refused as a file, where an empty line is named as such.
    empty = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    for path in empty:
        path.touch()
    assert list(records_of_files(empty, "text")) == [(1, {"text": ""})]


def test_every_record_has_a_line(caplog):
    # Guards: output that is no longer aligned with its input, as text and as JSON.
    results = [Solved(1, {}, Answer("x\ny", {"p": 0.5})), Solved(2, problem=RecordError(2, "no"))]
    text, objects = io.StringIO(), io.StringIO()
    assert write_answers(results, text, False) == 1
    assert text.getvalue() == "x y\n\n"
    assert [record.message for record in caplog.records] == ["line 2: no"]
    write_answers(results, objects, True)
    assert [json.loads(line) for line in objects.getvalue().splitlines()] == [
        {"line": 1, "answer": "x\ny", "p": 0.5, "problem": None},
        {"line": 2, "answer": None, "problem": "no"},
    ]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_field_of_the_name_file_is_no_origin(tmp_path, as_json):
    # Guards: two lines for one record, or an answer that names another file than its own.
    (tmp_path / "a.jsonl").write_text('{"file": "x\\ny", "text": "b"}\n')
    for records in (
        records_of_files([tmp_path / "a.jsonl"], "text"),
        read_records([b'{"file": "x\\ny", "text": "b"}']),
    ):
        [(line, record)] = records
        assert record["file"] == "x\ny"
        output = io.StringIO()
        write_answers([Solved(line, record, Answer("yes"))], output, as_json)
        assert output.getvalue().count("\n") == 1
        assert "x" not in output.getvalue().replace(str(tmp_path), "")
