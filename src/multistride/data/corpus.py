r"""Reading parallel text, line by line, from plain, gzip or xz files.

Lines end at "\n" and nowhere else: the other characters that Unicode calls line ends occur inside
sentences, and splitting there would shift every later line of one side against the other. A line
that cannot be read is handed on as `Unreadable`, so that whoever cleans the data can count it.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, TypeAlias

from multistride import untrusted
from multistride.errors import DataError
from multistride.untrusted import parse_json


class Pair(NamedTuple):
    """A source text and its target text."""

    source: str
    target: str


class Unreadable(NamedTuple):
    """A line that holds no pair; `reason` is one of the constants below."""

    reason: str


INVALID_UTF8 = "invalid utf-8"
MISSING_COLUMN = "missing column"
BROKEN_RECORD = "broken record"
MISSING_FIELD = "missing field"

Record: TypeAlias = Pair | Unreadable


def text_lines(path: Path | str) -> Iterator[bytes]:
    r"""Yield the lines of a file as bytes, without "\n" or "\r\n" or a byte order mark.

    Names ending in .gz and .xz are decompressed. A line too long to be text is cut and marked: see
    `untrusted.read_lines`. An empty file has no lines.
    Raises `DataError` when the file is missing, cut short or corrupt.
    """
    mark = BOM_UTF8
    for line in untrusted.read_lines(path):
        yield line.removeprefix(mark).removesuffix(b"\n").removesuffix(b"\r")
        mark = b""


def read_lines(path: Path | str) -> Iterator[bytes]:
    """Yield the lines of a file as `text_lines` does, of what needs at least one: test sets, data.

    Raises `DataError` as `text_lines` does, and when the file is empty.
    """
    empty = True
    for line in text_lines(path):
        empty = False
        yield line
    if empty:
        raise DataError(f"{path} is empty: give a file with one text a line")


def check_text(path: Path | str) -> None:
    """Raise `DataError` for a file of which `read_lines` would not yield a first line."""
    next(read_lines(path))


def read_parallel(
    source_path: Path | str, target_path: Path | str, may_be_empty: bool = False
) -> Iterator[Record]:
    """Yield line n of one file with line n of the other.

    Raises `DataError` when the files differ in their number of lines (known only at the end),
    and for what `read_lines` refuses (an empty file not if it `may_be_empty`).
    """
    read = text_lines if may_be_empty else read_lines
    sources, targets = read(source_path), read(target_path)
    for count, (source, target) in enumerate(zip_longest(sources, targets)):
        if source is None or target is None:
            rest = 1 + sum(1 for _ in (targets if source is None else sources))
            source_count = count if source is None else count + rest
            target_count = count if target is None else count + rest
            raise DataError(
                f"{source_path} has {source_count} lines and {target_path} has {target_count}: "
                "line n of one must translate line n of the other, so give two files of the same "
                "length"
            )
        yield _pair(source, target)


def read_table(
    path: Path | str, source_column: int = 0, target_column: int = 1
) -> Iterator[Record]:
    """Two columns, counted from 0, of a tab-separated file without quoting.

    Raises `DataError` for what `read_lines` refuses.
    """
    for line in read_lines(path):
        cells = line.split(b"\t")
        if max(source_column, target_column) >= len(cells):
            yield Unreadable(MISSING_COLUMN)
        else:
            yield _pair(cells[source_column], cells[target_column])


def read_jsonl(
    path: Path | str, source_field: str = "source", target_field: str = "target"
) -> Iterator[Record]:
    """Two text fields of a file with one JSON object a line.

    Raises `DataError` for what `read_lines` refuses.
    """
    for line in read_lines(path):
        texts = text_fields(line, source_field, target_field)
        yield texts if isinstance(texts, Unreadable) else Pair(*texts)


def _pair(source: bytes, target: bytes) -> Record:
    try:
        return Pair(source.decode("utf-8"), target.decode("utf-8"))
    except UnicodeDecodeError:
        return Unreadable(INVALID_UTF8)


def text_fields(line: bytes, *names: str) -> list[str] | Unreadable:
    """Return the texts in these fields of the JSON object on a line, or the reason there are
    none.
    """
    try:
        record = parse_json(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Unreadable(INVALID_UTF8)
    except ValueError:
        return Unreadable(BROKEN_RECORD)
    if not isinstance(record, dict):
        return Unreadable(BROKEN_RECORD)
    if not record.keys() >= set(names):
        return Unreadable(MISSING_FIELD)
    texts = [record[name] for name in names]
    if not all(isinstance(text, str) for text in texts):
        return Unreadable(BROKEN_RECORD)
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:  # JSON can escape half of a surrogate pair
        return Unreadable(INVALID_UTF8)
    return texts
