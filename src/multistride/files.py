"""Writing files so that a reader never sees half of one.

Everything is written under a temporary name in the directory of its destination and moved into
place when it is complete, so a crash, a full disk or Ctrl-C leaves the old file, or none.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import lzma
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from multistride.errors import UserError

_CANNOT_WRITE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
"""What is the destination's fault; other errors inside a block keep their own story."""


@contextmanager
def replacing_file(destination: Path | str) -> Iterator[Path]:
    """Yield a temporary path; move it to `destination` when the block ends without an error.

    Raises `UserError` with one line when the disk is full or the place cannot be written.
    """
    destination = Path(destination)
    with _write_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _flush(temporary)
            temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, destination)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(destination: Path | str) -> Iterator[Path]:
    """Yield a temporary directory; move it to `destination`, replacing what stood there.

    Raises `UserError` with one line when the disk is full or the place cannot be written.
    """
    destination = Path(destination)
    with _write_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        if destination.exists() and not destination.is_dir():
            raise UserError(
                f"{destination} is a file, and a directory is to be written there: choose another place"
            )
        temporary = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
        try:
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    path.chmod(0o666 & ~_umask())
                    _flush(path)
            temporary.chmod(0o777 & ~_umask())
            _exchange(temporary, destination)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_writable(destination: Path | str) -> None:
    """Raise `UserError` if a file cannot be written, as far as can be known before the work."""
    path = Path(destination)
    if path.is_dir():
        raise UserError(f"{path} is a directory, and a file is to be written there: name a file")
    if path.exists() and not path.is_file():  # a device or a pipe
        if not os.access(path, os.W_OK):
            raise UserError(f"{path} cannot be written: name another file")
        return
    place = path.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return
    except OSError as error:
        raise UserError(
            f"could not write {path}: {error.strerror or error}: free space or name another file"
        ) from error


class Journal:
    """A file that grows by whole pieces, to be read while it is written: after any end it holds
    whole pieces only.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file, self._whole = path, file, 0

    def write(self, piece: str) -> None:
        """Append a piece, at once. A disk that fills up in the middle of it leaves the file without
        it.
        """
        rest = whole = piece.encode("utf-8")
        with _write_errors(self._path, kept="what was written before is whole"):
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
                self._whole += len(whole)
            except BaseException:
                with suppress(OSError):  # a pipe or a terminal cannot be cut
                    self._file.truncate(self._whole)
                raise


@contextmanager
def journal(path: Path) -> Iterator[Journal]:
    """Begin a file anew that is written piece by piece. Raises `UserError` where it cannot be
    written.
    """
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "wb", buffering=0)  # noqa: SIM115, closed below: what happens in between has other errors
    with file:
        yield Journal(path, file)


def write_json(destination: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with replacing_file(destination) as temporary:
        temporary.write_text(
            json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


@contextmanager
def compressing(path: Path, name: Path) -> Iterator[BinaryIO | gzip.GzipFile | lzma.LZMAFile]:
    """Open `path` for writing bytes, compressed as `name` says it is (.gz, .xz; anything else: not
    at all).

    The same bytes give the same file: no time and no name is written into it.
    """
    with open(path, "wb") as file:
        if name.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                yield packed
        elif name.suffix == ".xz":
            with lzma.open(file, "wb") as packed:
                yield packed
        else:
            yield file


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _write_errors(destination: Path, kept: str = "nothing was changed there") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        reason = error.strerror or str(error)
        raise UserError(
            f"could not write {destination}: {reason}; {kept}: free space or choose another place"
        ) from error


def _exchange(incoming: Path, destination: Path) -> None:
    """Move `incoming` to `destination`; what stood there is put back if that fails, and deleted if
    it does not.
    """
    if not destination.exists():
        os.replace(incoming, destination)
        return
    outgoing = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}.old."))
    try:
        os.replace(destination, outgoing / "old")
        try:
            os.replace(incoming, destination)
        except OSError:
            os.replace(outgoing / "old", destination)
            raise
    finally:
        shutil.rmtree(outgoing, ignore_errors=True)


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
