import gzip
import json
import lzma

import pytest

from multistride.data.corpus import (
    Pair,
    Unreadable,
    read_jsonl,
    read_lines,
    read_parallel,
    read_table,
)
from multistride.errors import DataError


def write(path, content):
    openers = {".gz": gzip.open, ".xz": lzma.open}
    with openers.get(path.suffix, open)(path, "wb") as file:
        file.write(content)
    return path


# Guards: compressed files read as text, and a last line lost for want of a line end.
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.xz"])
@pytest.mark.parametrize("content", [b"one\n\nthree\n", b"one\n\nthree"])
def test_read_lines(tmp_path, name, content):
    assert list(read_lines(write(tmp_path / name, content))) == [b"one", b"", b"three"]


# Guards: the line ends of Windows kept in the text, or more than one of them removed.
def test_one_carriage_return_is_removed(tmp_path):
    assert list(read_lines(write(tmp_path / "a", b"one\r\ntwo\r\r\nth\rree\r"))) == [
        b"one",
        b"two\r",
        b"th\rree",
    ]


# Guards: splitting at what str.splitlines calls a line end, which shifts one side against the
# other.
@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85"])
def test_lines_end_at_newline_only(tmp_path, inside):
    source = write(tmp_path / "source", f"a{inside}b\nc\n".encode())
    target = write(tmp_path / "target", b"A\nC\n")
    assert list(read_parallel(source, target)) == [Pair(f"a{inside}b", "A"), Pair("c", "C")]


# Guards: a byte order mark that becomes a part of the first word.
def test_byte_order_mark_is_removed_once(tmp_path):
    path = write(tmp_path / "a", "\ufeffone\n\ufefftwo\n".encode())
    assert list(read_lines(path)) == [b"one", "\ufefftwo".encode()]


# Guards: files of different length paired up to the shorter one.
@pytest.mark.parametrize(("source_count", "target_count"), [(3, 5), (5, 3), (1, 4), (4, 5)])
def test_misaligned_files_are_refused(tmp_path, source_count, target_count):
    source = write(tmp_path / "left.en", b"x\n" * source_count)
    target = write(tmp_path / "right.de", b"y\n" * target_count)
    with pytest.raises(
        DataError, match=rf"left\.en has {source_count} lines .*right\.de has {target_count}:"
    ):
        list(read_parallel(source, target))


# Guards: a traceback, or an endless wait, for files that are missing, empty or directories.
def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist"):
        list(read_lines(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="is empty: give"):
        list(read_lines(write(tmp_path / "empty", b"")))
    with pytest.raises(DataError, match="is empty: give"):
        list(read_lines(write(tmp_path / "empty.gz", b"")))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_lines(tmp_path))


# Guards: half a download taken for the whole corpus.
@pytest.mark.parametrize("suffix", [".gz", ".xz"])
@pytest.mark.parametrize("damage", ["cut", "flip", "other"])
def test_damaged_archives_are_refused(tmp_path, suffix, damage):
    path = write(tmp_path / f"a{suffix}", b"".join(b"line %d\n" % number for number in range(5000)))
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
    else:
        content = bytearray(b"plain text\n")
    path.write_bytes(content)
    with pytest.raises(DataError, match="is cut short or corrupt") as caught:
        list(read_lines(path))
    assert "\n" not in str(caught.value)


# Guards: invalid bytes replaced silently, or one bad line ending the reading.
def test_invalid_utf8_is_marked(tmp_path):
    source = write(tmp_path / "source", b"a\n\xff\nc\n")
    target = write(tmp_path / "target", b"A\nB\n\xe4\n")
    expected = [Pair("a", "A"), Unreadable("invalid utf-8"), Unreadable("invalid utf-8")]
    assert list(read_parallel(source, target)) == expected


# Guards: columns counted from 1, quotes taken as syntax, and a bad third column that costs the
# pair.
def test_read_table(tmp_path):
    path = write(tmp_path / "a.tsv", b'one\t"eins\t\xff\nlonely\n\xff\tdrei\n')
    expected = [Pair("one", '"eins'), Unreadable("missing column"), Unreadable("invalid utf-8")]
    assert list(read_table(path)) == expected
    swapped = list(read_table(path, source_column=1, target_column=0))
    assert swapped[0] == Pair('"eins', "one")


# Guards: one broken record that ends the reading, or a number that becomes a text.
def test_read_jsonl(tmp_path):
    records = [
        json.dumps({"source": "a\nb", "target": "A", "note": 1}).encode(),
        b'{"source": "a"}',
        b'{"source": 1, "target": "A"}',
        b"[1]",
        b"{",
        b"",
        b"[" * 100_000,
        b'{"source": "\xff", "target": "A"}',
        b'{"source": "\\ud800", "target": "A"}',
    ]
    path = write(tmp_path / "a.jsonl", b"\n".join(records))
    broken, invalid = Unreadable("broken record"), Unreadable("invalid utf-8")
    missing = Unreadable("missing field")  # which another --fields mends
    expected = [Pair("a\nb", "A"), missing, *[broken] * 5, *[invalid] * 2]
    assert list(read_jsonl(path)) == expected
    other = write(tmp_path / "b.jsonl", b'{"en": "a", "de": "A"}\n')
    assert list(read_jsonl(other, "de", "en")) == [Pair("A", "a")]
