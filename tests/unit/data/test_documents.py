"""Texts without translations, as files hold them."""

import gzip
import json

import pytest

from multistride.data.corpus import BROKEN_RECORD, INVALID_UTF8, MISSING_FIELD, Unreadable
from multistride.data.documents import Written, read_documents, read_written
from multistride.errors import DataError

TEXT = "One line,\nand another.\n\n\nA second paragraph.  \n"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("file", ["One line,\nand another.\n\n\nA second paragraph."]),
        ("paragraph", ["One line,\nand another.", "A second paragraph."]),
        ("line", ["One line,", "and another.", "A second paragraph."]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_a_document_is(tmp_path, kind, expected, packed):
    # Guards: line ends lost inside a document, or blank lines that become documents.
    path = tmp_path / ("text.txt.gz" if packed else "text.txt")
    path.write_bytes(gzip.compress(TEXT.encode()) if packed else TEXT.encode())
    assert list(read_documents(path, kind, "text")) == expected


def test_bytes_that_are_no_text_cost_one_document(tmp_path):
    # Guards: one bad byte that costs the whole file where documents are smaller than that.
    path = tmp_path / "text.txt"
    path.write_bytes(b"good\n\n\xff\xfe\n\nalso good\n")
    assert list(read_documents(path, "paragraph", "text")) == [
        "good",
        Unreadable(INVALID_UTF8),
        "also good",
    ]


def test_records(tmp_path):
    path = tmp_path / "texts.jsonl"
    records = [
        '{"text": " a\\nb "}',
        "no json",
        '{"other": "x"}',
        '{"text": 3}',
        '{"text": "\\ud800"}',
        "[1]",
    ]
    path.write_text("\n".join(records) + "\n")
    found = list(read_documents(path, "file", "text"))
    broken = Unreadable(BROKEN_RECORD)
    missing = Unreadable(MISSING_FIELD)
    assert found == ["a\nb", broken, missing, broken, Unreadable(INVALID_UTF8), broken]


def test_written_tokens(tmp_path):
    # Guards: a record that is half there and becomes a text of other tokens.
    path = tmp_path / "written.jsonl"
    good = {"prompt": [4, 5], "written": [6, 2]}
    bad = [
        {"prompt": [4]},
        {"prompt": [4], "written": [-1]},
        {"prompt": "ab", "written": [1]},
        [1],
        7,
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in (good, *bad)))
    found = list(read_written(path))
    assert found[0] == Written([4, 5], [6, 2])
    assert found[1:] == [Unreadable(BROKEN_RECORD)] * len(bad)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.txt does not exist"):
        list(read_documents(tmp_path / "nothing.txt", "file", "text"))
