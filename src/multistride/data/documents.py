"""Reading texts without translations: documents, and what a model wrote after prompts.

A document is a whole file, a paragraph (lines between blank ones) or a line of a plain file, or a field of one JSON
object a line. Its inner line ends stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from multistride.data.corpus import BROKEN_RECORD, INVALID_UTF8, Unreadable, read_lines

DocumentKind = Literal["file", "paragraph", "line"]


class Written(NamedTuple):
    """The tokens of a prompt, and those that a model wrote after it, EOS included if it wrote that."""

    prompt: list[int]
    written: list[int]


def read_documents(path: Path, kind: DocumentKind, field: str) -> Iterator[str | Unreadable]:
    """The documents of a file; .gz and .xz are decompressed. A name in .jsonl has one object a line, text in `field`.

    Raises `DataError` for what `read_lines` refuses.
    """
    lines = read_lines(path)
    if Path(path.stem if path.suffix in (".gz", ".xz") else path.name).suffix == ".jsonl":
        yield from (_text_of(line, field) for line in lines)
    elif kind == "file":
        yield _decoded(lines)
    elif kind == "paragraph":
        for blank, paragraph in groupby(lines, key=lambda line: not line.strip()):
            if not blank:
                yield _decoded(paragraph)
    else:
        yield from (_decoded([line]) for line in lines if line.strip())


def read_written(path: Path) -> Iterator[Written | Unreadable]:
    """What `multistride distill` wrote with a causal model: one object a line, ids in `prompt` and `written`."""
    for line in read_lines(path):
        try:
            record = json.loads(line)
            prompt, written = record["prompt"], record["written"]
            fits = all(isinstance(token, int) and token >= 0 for token in [*prompt, *written])
        except (ValueError, TypeError, KeyError, RecursionError):
            fits = False
        yield Written(prompt, written) if fits else Unreadable(BROKEN_RECORD)


def _decoded(lines: Iterable[bytes]) -> str | Unreadable:
    try:
        return b"\n".join(lines).decode("utf-8").strip()
    except UnicodeDecodeError:
        return Unreadable(INVALID_UTF8)


def _text_of(line: bytes, field: str) -> str | Unreadable:
    try:
        text = json.loads(line.decode("utf-8"))[field]
        text.encode("utf-8")  # JSON can escape half of a surrogate pair
    except UnicodeError:
        return Unreadable(INVALID_UTF8)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Unreadable(BROKEN_RECORD)
    return str(text).strip()
