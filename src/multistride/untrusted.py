"""Read files that may be damaged or hostile: sizes are judged before memory is taken.

Every reader of the package comes through here. Whatever is wrong with a file is a `DataError` with
its path and the reason: too large, too deeply nested, a number that is none, a cut stream. Nothing
that is read here can name code to run.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import math
import os
import re
import stat
import zlib
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import yaml

from multistride.errors import DataError

MIB = 1 << 20
MOST_DOCUMENT = 32 * MIB
"""Bytes of a JSON document; parsed, it can take twenty times as much memory."""

MOST_TOKENIZER = 128 * MIB
MOST_SETTINGS = MIB
"""Bytes of a YAML file; its parser is slow and takes several hundred times as much memory."""

MOST_DEPTH = 64
MOST_NUMBER = 1 << 64
NO_LIMIT = int(1e30)
"""The `model_max_length` that transformers writes for a tokenizer without one."""

MOST_NODES = 100_000
"""Values in a YAML file."""

MOST_LINE = 64 * MIB
"""Bytes of a line that are kept; a longer one is handed on cut, and marked as no text."""

MOST_DICTIONARY = 128 * MIB
"""Memory that an .xz stream may ask for; `xz -9` asks for 65 MiB."""

FREELY_UNPACKED = 256 * MIB
MOST_RATIO = 1000
"""A compressed file that unpacks to more than both of these is a decompression bomb."""

MOST_HEADER = 100_000_000
"""Bytes of a safetensors header: the limit of the format."""

COPY_AGAIN = "copy or download it again"

_ITEM_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_CUT = b"\xff"
"""Ends a line that was cut; it is never part of UTF-8."""


def read_bytes(path: Path | str, most: int = MOST_DOCUMENT, advice: str = COPY_AGAIN) -> bytes:
    """Return the bytes of a file. Raises `DataError` if it is missing or has more than `most`."""
    try:
        # `<(...)` is below /dev; a pipe that lies in a directory would be waited for for ever.
        if stat.S_ISFIFO(os.stat(path).st_mode) and not str(path).startswith(("/dev/", "/proc/")):
            raise DataError(f"{path} is a pipe, and a file is read: {advice}")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(most + 1) if size <= most else b""
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path} cannot be read ({reason}): {advice}") from error
    except ValueError as error:  # a name with a null character
        raise DataError(f"{str(path)!r} is no name of a file: {advice}") from error
    if size > most or len(data) > most:
        shown = f"{max(size, len(data)) / MIB:,.1f} MiB"
        raise DataError(f"{path} has {shown}, at most {most / MIB:,.0f} MiB are read: {advice}")
    return data


def read_text(path: Path | str, most: int = MOST_DOCUMENT, advice: str = COPY_AGAIN) -> str:
    """Return a file of UTF-8 as text. Raises `DataError` as `read_bytes` does."""
    try:
        return read_bytes(path, most, advice).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {advice}") from error


def read_json(path: Path | str, advice: str = COPY_AGAIN) -> Any:
    """Return the value in a JSON file, free of infinities, deep nesting and broken characters.

    Raises `DataError`, in one line that ends in `advice`, for anything else.
    """
    try:
        value = parse_json(read_bytes(path, advice=advice))
        _check(value, strings=True)
    except ValueError as error:
        raise DataError(f"{path} is not JSON that can be read ({error}): {advice}") from error
    return value


def read_object(path: Path | str, advice: str = COPY_AGAIN) -> dict[str, Any]:
    """Return the object in a JSON file. Raises `DataError` as `read_json` does."""
    value = read_json(path, advice)
    if not isinstance(value, dict):
        raise DataError(f"{path} does not hold an object: {advice}")
    return value


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises `ValueError` with a short reason for what is not JSON, nested deeper than `MOST_DEPTH`,
    or holds a number that is not finite or has too many digits.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"nested deeper than {MOST_DEPTH}") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except ValueError as error:
        reason = str(error)
        raise ValueError("a number has too many digits" if "digits" in reason else reason) from None
    _check(value, strings=False)
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _check(value: Any, strings: bool, most: int | None = None, finite: bool = True) -> None:
    """Raise `ValueError` for what a later step would stumble over."""
    count, level = 0, [value]
    for _ in range(MOST_DEPTH + 1):
        below: list[Any] = []
        for entry in level:
            if isinstance(entry, dict):
                below.extend(entry.values())
                below.extend(key for key in entry if strings or not isinstance(key, str))
            elif isinstance(entry, list):
                below.extend(entry)
            elif isinstance(entry, str):
                if strings and not entry.isascii():
                    _check_text(entry)
            elif isinstance(entry, float):
                if finite and not math.isfinite(entry):
                    raise ValueError("a number is not finite")
            elif isinstance(entry, int) and abs(entry) >= MOST_NUMBER and entry != NO_LIMIT:
                raise ValueError("a number has too many digits")
        count += len(below)
        if most is not None and count > most:
            raise ValueError(f"it has more than {most:,} values")
        if not below:
            return
        level = below
    raise ValueError(f"nested deeper than {MOST_DEPTH}")


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("a text has half of a character (a lone surrogate)") from None


class _PlainYaml(yaml.SafeLoader):
    """YAML of plain values: no tags, no aliases, no dates, and every key once.

    The standard leaves a key that stands twice to the reader, an alias can multiply a file a
    million times, and a date or a number in base 60 is hardly ever what was meant.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not read: write the value again"
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(
                None, None, f"tags ({event.tag}) are not read: leave it out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue
            if key in seen:
                reason = f"the key {key!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, reason, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_PLAIN_NUMBERS = {
    "int": r"[-+]?(0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)",
    "float": r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?|\.[0-9][0-9_]*([eE][-+][0-9]+)?"
    r"|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
}
"""Numbers of YAML 1.1, but those in base 60: 1:30 is a text, not 90."""

_PlainYaml.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if not tag.endswith((":timestamp", *(f":{kind}" for kind in _PLAIN_NUMBERS)))
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern in _PLAIN_NUMBERS.items():
    _PlainYaml.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list("-+.0123456789")
    )


def parse_yaml(data: bytes | str) -> Any:
    """Return the value of a YAML text of plain values. Raises `ValueError` with the reason."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = yaml.load(text, _PlainYaml)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {MOST_DEPTH}") from None
    except yaml.YAMLError as error:
        reason = str(error).replace('in "<unicode string>", ', "at ")
        raise ValueError(" ".join(reason.split())) from None
    except (ValueError, OverflowError, TypeError, IndexError, AttributeError) as error:
        # what the library raises for numbers of 5,000 digits, unhashable keys and odd scalars
        raise ValueError("a value cannot be read: " + " ".join(str(error).split())[:100]) from None
    _check(value, strings=True, most=MOST_NODES, finite=False)  # settings say which key it is
    return value


def read_yaml(path: Path | str, advice: str = COPY_AGAIN) -> Any:
    """Return the value in a YAML file. Raises `DataError` in one line that ends in `advice`."""
    try:
        return parse_yaml(read_bytes(path, MOST_SETTINGS, advice))
    except ValueError as error:
        raise DataError(f"{path} is not YAML that can be read ({error}): {advice}") from error


def read_lines(path: Path | str) -> Iterator[bytes]:
    r"""Yield the lines of a plain, gzip or xz file with their "\n".

    A line of more than `MOST_LINE` bytes is cut there and ends in a byte that no text has, so that
    line n stays line n. Raises `DataError` for what cannot be read or unpacks beyond all measure.
    """
    path = Path(path)
    try:
        with open(path, "rb") as packed:
            size = os.fstat(packed.fileno()).st_size
            most = max(FREELY_UNPACKED, MOST_RATIO * size) if compression(path) else None
            yield from bounded_lines(_unpacked(packed, path), path, most)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: check the path") from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is cut short or corrupt ({error}): fetch or compress it again"
        ) from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}; check the path"
        ) from error


def bounded_lines(file: BinaryIO, path: Path | str, most: int | None = None) -> Iterator[bytes]:
    """Yield the lines of an open file, cut as those of `read_lines` are.

    Raises `DataError` once more than `most` bytes were read (None: no limit).
    """
    read = 0
    while line := file.readline(MOST_LINE + 1):
        if not read and (format := _foreign(line)):
            raise DataError(f"{path} is {format[0]}, and text in UTF-8 is read: {format[1]}")
        read += len(line)
        rest = line
        while len(line) > MOST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(MIB)
            read += len(rest)
            if not rest:
                break
            if most is not None and read > most:
                break
        if most is not None and read > most:
            raise DataError(
                f"{path} unpacks to more than {MOST_RATIO:,} times its size, as no text does: "
                "check where it comes from"
            )
        yield line[:MOST_LINE] + _CUT + b"\n" if len(line) > MOST_LINE else line


def compression(path: Path) -> str:
    """Return ".gz" or ".xz" for the name of a compressed file, in whatever case; else ""."""
    suffix = path.suffix.lower()
    return suffix if suffix in (".gz", ".xz") else ""


def layout(path: Path) -> str:
    """Return the suffix of a name without that of its compression: ".jsonl" of "a.JSONL.gz"."""
    return (Path(path.stem) if compression(path) else path).suffix.lower()


_FORMATS = {
    b"\x1f\x8b\x08": ("compressed with gzip", "unpack it, or name it .gz"),
    b"\xfd7zXZ\0": ("compressed with xz", "unpack it, or name it .xz"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "unpack it with `zstd -d`"),
    b"\x04\x22\x4d\x18": ("compressed with lz4", "unpack it with `lz4 -d`"),
    b"PK\x03\x04": ("a zip archive", "unpack it"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it"),
    b"\x89PNG\r\n": ("a picture (PNG)", "give a text file"),
    b"\xff\xd8\xff": ("a picture (JPEG)", "give a text file"),
    b"%PDF-1.": ("a PDF document", "extract its text with `pdftotext`"),
    b"SQLite format 3\0": ("an SQLite database", "export its columns as text or .jsonl"),
    b"PAR1\x15": ("a Parquet file", "export its columns as text or .jsonl"),
    b"ARROW1\0": ("an Arrow file", "export its columns as text or .jsonl"),
}
"""First bytes of formats that are mistaken for text, and what to do about them."""


def _foreign(line: bytes) -> tuple[str, str] | None:
    """Return the format and the way out if the first line of a file says that it is no text."""
    for magic, said in _FORMATS.items():
        if line.startswith(magic):
            return said
    if line[:3] == b"BZh" and line[4:10] == b"1AY&SY":
        return "compressed with bzip2", "unpack it with `bunzip2`"
    if line[257:262] == b"ustar":
        return "a tar archive", "unpack it and name the files in it"
    # A line of Chinese in UTF-16 may hold no zero byte, and ends at any byte that is "\n".
    if line.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")) and len(line) > 3:
        return "in UTF-16 or UTF-32", "convert it with `iconv -f UTF-16 -t UTF-8`"
    return None


def _unpacked(file: BinaryIO, path: Path) -> BinaryIO:
    if compression(path) == ".gz":
        return cast("BinaryIO", gzip.GzipFile(fileobj=file, mode="rb"))
    if compression(path) == ".xz":
        return cast("BinaryIO", io.BufferedReader(_Xz(file), MIB))
    return file


class _Xz(io.RawIOBase):
    """An .xz stream with a limit on the memory that it may ask for; `lzma.open` has none."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._stream = file, _new_stream()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _next(self, size: int) -> bytes:
        while True:
            packed = b""
            if self._stream.eof:  # streams may follow each other, with zeros in between
                packed = self._stream.unused_data.lstrip(b"\0")
                while not packed:
                    block = self._file.read(1 << 16)
                    if not block:
                        return b""
                    packed = block.lstrip(b"\0")
                self._stream = _new_stream()
            elif self._stream.needs_input:
                packed = self._file.read(1 << 16)
                if not packed:
                    raise EOFError("it ends in the middle of a stream")
            if data := self._stream.decompress(packed, size):
                return data


def _new_stream() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=MOST_DICTIONARY)


def tensor_shapes(path: Path | str, advice: str = COPY_AGAIN) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes in a safetensors file, reading its header alone.

    Raises `DataError` unless every tensor has the bytes that its shape needs, inside the file.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MOST_HEADER, size - 8):
                raise ValueError("its header is longer than the file")
            header = parse_json(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
        header.pop("__metadata__", None)
        return {name: _shape(name, entry, size - 8 - length) for name, entry in header.items()}
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): {advice}") from error
    except ValueError as error:
        raise DataError(f"{path} is truncated or corrupt ({error}): {advice}") from error


def _shape(name: str, entry: Any, size: int) -> tuple[int, ...]:
    try:
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        bits = _ITEM_BITS[entry["dtype"]]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise TypeError
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{name[:80]!r} is not described as a tensor") from None
    if begin > end or end > size or math.prod(shape) * bits != (end - begin) * 8:
        raise ValueError(f"{name[:80]!r} does not fit the file")
    return shape


def inside(directory: Path, name: Any, advice: str = COPY_AGAIN) -> Path:
    """Return the file `name` of a directory, for a name that another file gives.

    Raises `DataError` for one that leads elsewhere: `../x`, `/x`, a name that is no text.
    """
    if (
        not isinstance(name, str)
        or not name
        or len(name.encode("utf-8", "replace")) > 255
        or "\0" in name
        or "\\" in name
        or name != Path(name).name
        or name in (".", "..")
    ):
        shown = repr(name)[:80]
        raise DataError(f"{directory} names {shown} as one of its files, which is none: {advice}")
    return directory / name
