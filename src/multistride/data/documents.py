"""Reading texts without translations: documents, and what a model wrote after prompts.

A document is a whole file, a paragraph (lines between blank ones) or a line of a plain file, or a
field of one JSON object a line. Its inner line ends stay; CRLF of a plain file is read as LF.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from multistride.data.corpus import (
    BROKEN_RECORD,
    INVALID_UTF8,
    Unreadable,
    read_lines,
    text_fields,
)
from multistride.data.vocab import Vocabulary
from multistride.untrusted import layout, parse_json

DocumentKind = Literal["file", "paragraph", "line"]

ENCODED_TOGETHER = 100_000
"""Characters of a document that the tokenizer reads at once: it needs some hundred bytes for
each."""


class Written(NamedTuple):
    """The tokens of a prompt, and those that a model wrote after it, EOS included if it wrote
    that.
    """

    prompt: list[int]
    written: list[int]


def read_documents(path: Path, kind: DocumentKind, field: str) -> Iterator[str | Unreadable]:
    """Yield the documents of a file; .gz and .xz are decompressed.

    A name in .jsonl has one object a line, text in `field`. Raises `DataError` for what
    `read_lines` refuses.
    """
    lines = read_lines(path)
    if layout(path) == ".jsonl":
        yield from (_text_of(line, field) for line in lines)
    elif kind == "file":
        yield _decoded(lines)
    elif kind == "paragraph":
        for blank, paragraph in groupby(lines, key=lambda line: not line.strip()):
            if not blank:
                yield _decoded(paragraph)
    else:
        yield from (_decoded([line]) for line in lines if line.strip())


def spans(length: int, size: int, overlap: int) -> list[range]:
    """Return the windows of a text of `length` tokens: as few as can be, about equally long, of at
    most `size` tokens.

    Each shares at least `overlap` tokens with the one before it, and together they hold every
    token. A text of no tokens has one window of none.
    """
    count = 1 if length <= size else -(-(length - overlap) // (size - overlap))
    width = min(length, -(-(length + (count - 1) * overlap) // count))
    last = length - width
    begins = [last * place // max(count - 1, 1) for place in range(count)]
    return [range(begin, begin + width) for begin in begins]


def pieces_of(text: str, size: int = ENCODED_TOGETHER) -> Iterator[str]:
    """Yield a text in pieces of about `size` characters that have the same tokens apart as
    together.

    It is cut before a blank or line end that follows a letter or digit: no token of byte-level BPE
    reaches over such a place. Where there is none for `size` characters, it is cut anywhere.
    """
    begin = 0
    while len(text) - begin > 2 * size:
        cut = _before_blank(text, begin + size, begin + 2 * size)
        yield text[begin:cut]
        begin = cut
    yield text[begin:]


def encode_document(vocabulary: Vocabulary, text: str) -> list[int]:
    """Return the tokens of a document of any length, read piece by piece.

    Raises `DataError` where it cannot be written as UTF-8.
    """
    first, *others = pieces_of(text)
    [tokens] = vocabulary.encode_source([first])
    for piece in others:  # all at once would take the memory that the pieces save
        [more] = vocabulary.encode_continuation([piece])
        tokens += more
    return tokens


def _before_blank(text: str, first: int, last: int) -> int:
    """Return the first place in `first` to `last` where a blank follows a letter or digit; `last`
    if there is none.
    """
    while first < last:
        places = [place for blank in " \n" if (place := text.find(blank, first, last)) >= 0]
        if not places:
            return last
        if text[min(places) - 1].isalnum():
            return min(places)
        first = min(places) + 1
    return last


def read_written(path: Path) -> Iterator[Written | Unreadable]:
    """Return what `multistride distill` wrote with a causal model: one object a line, ids in
    `prompt` and `written`.
    """
    for line in read_lines(path):
        try:
            record = parse_json(line)
            prompt, written = record["prompt"], record["written"]
            fits = all(isinstance(token, int) and token >= 0 for token in [*prompt, *written])
        except (ValueError, TypeError, KeyError):
            fits = False
        yield Written(prompt, written) if fits else Unreadable(BROKEN_RECORD)


def _decoded(lines: Iterable[bytes]) -> str | Unreadable:
    try:
        return b"\n".join(lines).decode("utf-8").strip()
    except UnicodeDecodeError:
        return Unreadable(INVALID_UTF8)


def _text_of(line: bytes, field: str) -> str | Unreadable:
    record = text_fields(line, field)
    return record if isinstance(record, Unreadable) else record[0].strip()
