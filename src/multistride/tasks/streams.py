"""Documents in, answers out: lines, records or files, one line of output each."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from multistride.data.corpus import text_lines
from multistride.data.detokenize import one_line
from multistride.errors import DataError
from multistride.tasks.record import FileError, Record, RecordError, Solved, read_records
from multistride.untrusted import layout

logger = logging.getLogger(__name__)

FILE = "file"
"""The field of an answer that says which file its record came from."""

LOOKED_AT = 8192
"""First bytes of the input in which a zero byte says that this is no text."""

Numbered = Iterator[tuple[int, Record | RecordError]]


class FromFile(dict[str, Any]):
    """A record, and the `file` it came from, which is no field of it."""

    def __init__(self, file: str, record: Record) -> None:
        super().__init__(record)
        self.file = file


def records_of_lines(lines: Iterable[bytes], field: str) -> Numbered:
    """Yield each line as a document, a blank one too.

    Raises `DataError` if the first holds binary data.
    """
    for line, raw in enumerate(lines, start=1):
        if line == 1 and b"\0" in raw[:LOOKED_AT]:
            raise DataError(
                "the input holds binary data (a zero byte in line 1): give UTF-8 text, a document "
                "a line"
            )
        yield line, _document(raw.rstrip(b"\r\n"), field, line)


def records_of_files(paths: Sequence[Path], field: str) -> Numbered:
    """Yield the records of .jsonl files, and any other file as one document (line 1).

    .gz and .xz are decompressed. What cannot be read is a `FileError`.
    """
    for path in paths:
        try:
            for line, record in _records_of(path, field):
                if isinstance(record, RecordError):
                    what = record if layout(path) == ".jsonl" else record.problem
                    yield line, FileError(str(path), line, f"{path}: {what}")
                else:
                    yield line, FromFile(str(path), record)
        except DataError as error:
            yield 1, FileError(str(path), 1, str(error))


def write_answers(results: Iterable[Solved], output: TextIO, as_json: bool) -> int:
    """Write a line for every record: its answer, or an object with all facts.

    The answer of a file follows its name. A record without an answer is an empty line (as JSON: an
    object with `problem`), and is logged. Returns the number of those.
    """
    failed = 0
    for each in results:
        unread = each.problem if isinstance(each.problem, FileError) else None
        origin = unread or each.record
        file = origin.file if isinstance(origin, FileError | FromFile) else None
        if each.problem is not None:
            failed += 1
            named = file is None or unread is not None
            logger.warning(str(each.problem) if named else f"{file}: {each.problem}")
        output.write(_line(each, file, as_json) + "\n")
    output.flush()
    return failed


def _line(each: Solved, file: str | None, as_json: bool) -> str:
    if as_json:
        known = {FILE: file} if file else {}
        answer = (
            {"answer": each.answer.text, **each.answer.facts} if each.answer else {"answer": None}
        )
        problem = each.problem and each.problem.problem
        return json.dumps(
            {"line": each.line, **known, **answer, "problem": problem}, ensure_ascii=False
        )
    text = one_line(each.answer.text) if each.answer else ""
    return f"{file}\t{text}" if file else text


def _records_of(path: Path, field: str) -> Numbered:
    if layout(path) == ".jsonl":
        yield from read_records(text_lines(path))
    else:
        yield 1, _document(b"\n".join(text_lines(path)), field, 1)


def _document(raw: bytes, field: str, line: int) -> Record | RecordError:
    if b"\0" in raw:
        return RecordError(line, "it holds a zero byte, so it is no text; give text in UTF-8")
    try:
        return {field: raw.decode("utf-8")}
    except UnicodeDecodeError:
        return RecordError(line, "it is not valid UTF-8; give text in UTF-8")
