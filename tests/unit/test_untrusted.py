"""Files that nobody vouches for: every size is judged before memory is taken, every fault is one
line."""

import bz2
import gzip
import io
import json
import lzma
import struct

import numpy as np
import pytest

from multistride import untrusted
from multistride.array_files import read_array
from multistride.errors import DataError
from multistride.untrusted import (
    inside,
    layout,
    parse_json,
    parse_yaml,
    read_bytes,
    read_json,
    read_lines,
    read_object,
    tensor_shapes,
)


def refused(call, *arguments):
    with pytest.raises(DataError, match=r"\A[^\n]*\Z") as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[" * 100_000, "nested"),
        (b"[" * 80 + b"]" * 80, "nested deeper than 64"),
        (b"9" * 5000, "digits"),
        (b"1" * 30, "digits"),
        (b'{"a": NaN}', "NaN"),
        (b"[1e999]", "not finite"),
        (b'"\\ud800"', "half of a character"),
        (b'{"\\ud800": 1}', "half of a character"),
        (b"\xff", "not UTF-8"),
        (b"{", "Expecting"),
        (b"", "Expecting"),
    ],
)
def test_json_that_would_hurt_later(tmp_path, data, reason):
    # Guards: recursion errors, 5,000-digit numbers, NaN and lone surrogates as tracebacks later on.
    (tmp_path / "file.json").write_bytes(data)
    message = refused(read_json, tmp_path / "file.json")
    assert reason in message
    assert str(tmp_path / "file.json") in message


def test_json_that_is_good(tmp_path):
    # Guards: limits that refuse ordinary files.
    value = {"a": [1, 2.5, None, True, "ü草"], "b": {"c": -(2**63), "d": 2**64 - 1}}
    value["model_max_length"] = int(1e30)  # of every tokenizer that transformers saves without one
    (tmp_path / "file.json").write_text(json.dumps(value))
    assert read_object(tmp_path / "file.json") == value
    assert parse_json(b"[1]") == [1]
    (tmp_path / "file.json").write_text("[]")
    assert "does not hold an object" in refused(read_object, tmp_path / "file.json")


def test_large_and_missing_files(tmp_path):
    # Guards: a file of gigabytes read before its size is looked at, and endless devices.
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)
    assert "at most 32 MiB" in refused(read_bytes, tmp_path / "large")
    assert "at most 1 MiB" in refused(read_bytes, "/dev/zero", 1 << 20)
    assert "No such file" in refused(read_bytes, tmp_path / "missing")
    assert "Is a directory" in refused(read_bytes, tmp_path)
    assert "no name of a file" in refused(read_bytes, "a\0b")


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x",
        "a: !!python/object/apply:os.system [ls]",
        "a: !!timestamp 2001-01-01",
        "a: 1\na: 2",
        "[" * 1500,
        "a: " + "9" * 5000,
        "{[1]: 2}",
        "\0",
        b"\xff",
    ],
)
def test_yaml_that_is_refused(text):
    # Guards: alias bombs, tags that name code, keys that stand twice, numbers of 5,000 digits.
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        parse_yaml(text)


def test_yaml_of_too_many_values_is_refused(monkeypatch):
    monkeypatch.setattr(untrusted, "MOST_NODES", 100)
    parse_yaml("- [" + "0," * 90 + "]")
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        parse_yaml("- [" + "0," * 110 + "]")


def test_yaml_is_plain_values():
    # Guards: `version: 2001-01-01` read as a date that nothing can compare or write.
    assert parse_yaml("a: 2001-01-01\nb: [1, x]\nc: {d: null}") == {
        "a": "2001-01-01",
        "b": [1, "x"],
        "c": {"d": None},
    }


@pytest.mark.parametrize("text", ["1:30", "1:30.5", "-2:00:00"])
def test_numbers_in_base_60_are_texts(text):
    # Guards: `updates: 1:30`, which YAML 1.1 reads as 90.
    assert parse_yaml(f"a: {text}") == {"a": text}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("1_000", 1000), ("-7", -7), ("0", 0), ("0x1f", 31), ("0b11", 3), ("1.5", 1.5)),
        *((".5", 0.5), ("1.0e-3", 0.001), ("-.inf", float("-inf")), ("+3.", 3.0)),
    ],
)
def test_numbers_of_yaml(text, number):
    # Guards: a rule of our own for numbers that leaves out some that YAML has.
    value = parse_yaml(f"a: {text}")["a"]
    assert (value, type(value)) == (number, type(number))


@pytest.mark.parametrize(("suffix", "library"), [("gz", gzip), ("xz", lzma)])
def test_packed_lines(tmp_path, monkeypatch, suffix, library):
    # Guards: several streams in a file read as one; a small file that unpacks to all memory.
    place = tmp_path / f"lines.{suffix}"
    place.write_bytes(library.compress(b"one\n") + library.compress(b"two\nthree"))
    assert list(read_lines(place)) == [b"one\n", b"two\n", b"three"]
    monkeypatch.setattr(untrusted, "FREELY_UNPACKED", 1000)
    monkeypatch.setattr(untrusted, "MOST_RATIO", 10)
    for bomb in (b"\0" * 1_000_000, b"a\n" * 500_000):
        place.write_bytes(library.compress(bomb))
        assert "unpacks to more than" in refused(list, read_lines(place))
    for damaged in (place.read_bytes()[:-5], b"no stream", place.read_bytes() + b"garbage"):
        place.write_bytes(damaged)
        monkeypatch.setattr(untrusted, "MOST_RATIO", 10_000_000)
        assert "cut short or corrupt" in refused(list, read_lines(place))


def test_a_line_too_long_keeps_its_number(tmp_path, monkeypatch):
    # Guards: a line of gigabytes held in memory, or every later line shifted against its source.
    monkeypatch.setattr(untrusted, "MOST_LINE", 10)
    (tmp_path / "lines").write_bytes(b"one\n" + b"x" * 3_000_000 + b"\nthree\n" + b"y" * 11)
    lines = list(read_lines(tmp_path / "lines"))
    assert lines == [b"one\n", b"x" * 10 + b"\xff\n", b"three\n", b"y" * 10 + b"\xff\n"]


def test_arrays_have_the_size_they_claim(tmp_path):
    # Guards: a header of 128 bytes that asks for terabytes; objects, which are pickles.
    np.save(tmp_path / "good.npy", np.arange(6).reshape(2, 3))
    good = (tmp_path / "good.npy").read_bytes()
    assert read_array(tmp_path / "good.npy").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read_array(tmp_path / "good.npy", mapped=True).tolist() == [[0, 1, 2], [3, 4, 5]]
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    huge = good.replace(b"(2, 3), }                  ", b"(2, 3000000000000000), }   ")
    assert huge != good
    for number, data in enumerate([huge, good[:-1], good + b"x", good[:20], b"", b"\x93NUMPY"]):
        (tmp_path / f"{number}.npy").write_bytes(data)
        assert "damaged" in refused(read_array, tmp_path / f"{number}.npy")
    assert "damaged" in refused(read_array, tmp_path / "objects.npy")


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}},
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "O", "shape": [2], "data_offsets": [0, 8]}},
        {"a": [1]},
        [],
    ],
)
def test_tensor_headers_are_checked_against_the_file(tmp_path, header):
    # Guards: a header believed, and memory taken by it.
    place = tmp_path / "model.safetensors"

    def write(header):
        text = json.dumps(header).encode()
        place.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))

    write({"__metadata__": {"x": "y"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})
    assert tensor_shapes(place) == {"a": (2,)}
    write(header)
    assert "truncated or corrupt" in refused(tensor_shapes, place)
    place.write_bytes(struct.pack("<Q", 1 << 60))
    assert "truncated or corrupt" in refused(tensor_shapes, place)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "a\0", 3, None]
)
def test_names_that_leave_the_directory(tmp_path, name):
    # Guards: an index of shards that makes a reader open any file of the machine.
    assert "which is none" in refused(inside, tmp_path, name)
    assert inside(tmp_path, "a.safetensors") == tmp_path / "a.safetensors"


def test_a_stream_without_line_ends_is_not_read_whole(monkeypatch):
    """A pipe that never writes a line end, as /dev/zero does."""
    monkeypatch.setattr(untrusted, "MOST_LINE", 10)
    kept = list(untrusted.bounded_lines(io.BytesIO(b"0" * 5_000_000 + b"\nnext\n"), "a stream"))
    assert [len(line) for line in kept] == [12, 5]
    assert kept[1] == b"next\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (gzip.compress(b"text\n", mtime=0), "gzip"),
        (lzma.compress(b"text\n"), "xz"),
        (bz2.compress(b"text\n"), "bzip2"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "zstd"),
        (b"PK\x03\x04\x14\x00", "zip"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"\x89PNG\r\n\x1a\n\0\0", "PNG"),
        (b"\xff\xd8\xff\xe0\0", "JPEG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0" * 257 + b"ustar\0", "tar"),
        ("the cat\na dog\n".encode("utf-16"), "UTF-16"),
        ("你好\n早上好\n".encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + "早上好\n".encode("utf-16-be"), "UTF-16"),
    ],
)
def test_files_that_are_no_text_say_what_they_are(tmp_path, data, said):
    # Every line was called "not valid UTF-8", or was read as text full of zero bytes.
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(DataError, match=said) as caught:
        list(read_lines(tmp_path / "x"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\n", b"\xff\xd8\n", b"PK\n", b"BZh\n", b"PAR1 is a name\n"]
)
def test_lines_that_only_begin_alike_are_lines(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    assert list(read_lines(tmp_path / "x")) == [data]


def test_a_name_in_capitals_is_compressed_too(tmp_path):
    (tmp_path / "x.JSONL.GZ").write_bytes(gzip.compress(b"text\n"))
    assert list(read_lines(tmp_path / "x.JSONL.GZ")) == [b"text\n"]
    assert layout(tmp_path / "x.JSONL.GZ") == ".jsonl"
