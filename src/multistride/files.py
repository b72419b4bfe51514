"""Write files so that a reader never sees half of one, and nothing of a person's is lost.

Everything is written under a hidden temporary name beside its destination and moved into place when
it is complete, so a crash, a full disk or Ctrl-C leaves the old file, or none. The temporary names
are locked while their writer lives; the next writer removes those that a killed one left.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO, Literal

from multistride.errors import DataError, UsageError, UserError
from multistride.locks import Unsupported, try_lock
from multistride.untrusted import compression, read_object

_CANNOT_WRITE = {
    errno.EACCES,
    errno.EBUSY,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.ENXIO,
    errno.EPERM,
    errno.EPIPE,
    errno.EROFS,
    errno.EXDEV,
}
"""What is the destination's fault; other errors inside a block keep their own story."""

_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""What NumPy says of a full disk, without a number."""

_SURROGATE = re.compile("[\ud800-\udfff]")
"""What Python makes of a byte that is no UTF-8 in the name of a file."""

RESUMED = "training.pt"
"""The file of a checkpoint that a training goes on from."""

_SIGNATURES = {"provenance.json": "multistride", "prepare.json": "data_hash", "int8.json": "format"}
"""Files that only this package writes, and a key that each of them has."""

_OF_BOTH = (
    *("tokenizer.json", "tokenizer_config.json", "target_tokenizer.json", "chat_template.jinja"),
)
_OF_MODELS = (
    *("config.json", "generation_config.json", "README.md", "provenance.json", "int8.json"),
    *("model.safetensors", "markov.safetensors", "*.onnx", "model.bin", "*vocabulary.json"),
    *("calibration.json", "temperature.json", "phrases.npy", RESUMED),
    *("draft_head.safetensors", "weights.bin", "native.bin"),
    *("modeling_multistride.py", "configuration_multistride.py", "LICENSE*"),
)
_OF_DATA = (
    "prepare.json",
    *(
        f"{split}.{side}.{content}.npy"
        for split in ("train", "validation")
        for side in ("source", "target", "text")
        for content in ("tokens", "offsets", "known", "labels")
    ),
)
"""Names in the directories that this package writes; any other name is somebody else's file."""

_KINDS = {
    "model": (*_OF_BOTH, *_OF_MODELS),
    "data": (*_OF_BOTH, *_OF_DATA),
    None: (*_OF_BOTH, *_OF_MODELS, *_OF_DATA),
}

_STANDARD = ("/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/tty")

_WRITERS = {"data": "`prepare`", "model": "a writer of models", None: "multistride"}

LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<kind>new|old)\.[a-z0-9_]{8}")
"""A temporary name: a new file or directory, or the place of an old directory on its way out."""


class ReaderLeft(BrokenPipeError):
    """The reader of standard output (`| head`) has seen enough, which is no fault."""


@contextmanager
def replacing_file(destination: Path | str) -> Iterator[Path]:
    """Yield a temporary path; move it to `destination` when the block ends without an error.

    A symbolic link is followed. What is no regular file (a pipe, a device) is written to at the
    end. A name ending in .gz or .xz is compressed, unless the block did that. Raises `UserError`
    with one line when the disk is full or the destination cannot be written.
    """
    named = _named(destination)
    with write_errors(named):
        if is_stream(named):
            with _streaming(named) as temporary:
                yield temporary
            return
        destination = Path(os.path.realpath(named))
        destination.parent.mkdir(parents=True, exist_ok=True)
        if destination.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if destination.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        sweep(destination.parent, destination.name)
        mode = _mode(destination)
        with _temporary(destination, "new", tempfile.mkstemp) as temporary:
            yield temporary
            _compress(temporary, named)
            _flush(temporary)
            temporary.chmod(mode)
            os.replace(temporary, destination)


@contextmanager
def replacing_directory(destination: Path | str, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield a temporary directory; move it to `destination`, replacing what this package wrote.

    Raises `UsageError` for a directory that holds anything else, or one of the `inputs`;
    `UserError` with one line when the disk is full or the place cannot be written.
    """
    named = _named(destination)
    with write_errors(named):
        destination = Path(os.path.realpath(named))
        if named.name == "":
            raise UsageError(f"{named} is no name of a directory to write: name another one")
        refuse_inputs(named, inputs)
        destination.parent.mkdir(parents=True, exist_ok=True)
        sweep(destination.parent, destination.name)
        refuse_foreign(named)
        with _temporary(destination, "new", tempfile.mkdtemp) as temporary:
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    path.chmod(0o666 & ~_umask())
                    _flush(path)
            temporary.chmod(0o777 & ~_umask())
            refuse_foreign(named)  # somebody may have put a file there meanwhile
            _exchange(temporary, destination)


def _named(destination: Path | str) -> Path:
    """Return the path of an output. Raises `UsageError` for the name of no file, or of a format."""
    path = Path(destination)
    if str(path) == "-":
        raise UsageError("- is no name of a file: name one, or /dev/stdout for standard output")
    suffix = path.suffix.lower()
    if suffix in _NOT_WRITTEN:
        raise UsageError(
            f"{path} would be written uncompressed under the name of a compressed file; .gz and "
            f".xz are compressed: name it so, or without {path.suffix}"
        )
    return path


def same_file(one: Path, other: Path) -> bool:
    """Return whether two paths name one file, by whatever links."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def refuse_inputs(output: Path, inputs: Iterable[Path]) -> None:
    """Raise `UsageError` if `output` is one of the inputs or a directory that holds one."""
    place = Path(os.path.realpath(output))
    for path in inputs:
        real = Path(os.path.realpath(path))
        if place == real or place in real.parents:
            holds = "is also read" if place == real else f"holds {path}, which is read"
            raise UsageError(f"{output} {holds}: name another output")


def refuse_foreign(directory: Path, kind: Literal["model", "data"] | None = None) -> None:
    """Raise `UsageError` if writing `directory` anew would delete what this package did not write.

    That is everything with a name that it never writes, and a directory without one of its records.
    With a `kind`, a directory of the other one is refused too: a model is not replaced by data.
    Raises `UserError` if no directory can be written there, as far as can be known before the work.
    """
    _named(directory)
    _check_place(directory)
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UsageError(
            f"{directory} is a file, and a directory is to be written there: choose another place"
        )
    names = sorted(path.name for path in directory.iterdir() if not LEFTOVER.fullmatch(path.name))
    if RESUMED in names and kind is not None:
        raise UsageError(
            f"{directory} is a checkpoint from which a training goes on ({RESUMED}), and would be "
            "replaced: name another directory"
        )
    foreign = [
        name
        for name in names
        if (directory / name).is_dir() or not any(fnmatch(name, ours) for ours in _KINDS[kind])
    ]
    if not foreign and not _is_signed(directory):
        foreign = names
    if foreign:
        raise UsageError(
            f"{directory} holds {foreign[0]}, which {_WRITERS[kind]} did not write there and would "
            "delete: name another directory, or an empty one"
        )


def refuse_streams(paths: Iterable[Path | None], why: str) -> None:
    """Raise `UsageError` for an input that can be read only once, as a pipe or `<(...)`."""
    for path in paths:
        if path is not None and path.exists() and not path.is_file() and not path.is_dir():
            raise UsageError(
                f"{path} is a pipe or a device, and {why}: write it to a file first and name that"
            )


def sweep(directory: Path, name: str | None = None) -> None:
    """Remove temporary files and directories that a killed process left in `directory`.

    With a `name`, only those on the way to that name. What a live process holds stays. A directory
    that was moved away and not yet replaced is put back.
    """
    try:
        entries = [entry.name for entry in os.scandir(directory)]
    except OSError:
        return
    for entry in entries:
        match = LEFTOVER.fullmatch(entry)
        if match is None or (name is not None and match["name"] != _short(name)):
            continue
        with suppress(OSError, Unsupported):
            _remove_leftover(directory / entry, directory / match["name"])


def _remove_leftover(path: Path, destination: Path) -> None:
    held = try_lock(path)
    if held is None:
        return
    try:
        old = path / "old"
        if old.is_dir() and not destination.exists():
            os.replace(old, destination)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    finally:
        os.close(held)


def _is_signed(directory: Path) -> bool:
    for name, key in _SIGNATURES.items():
        with suppress(DataError):
            if (directory / name).is_file() and key in read_object(directory / name):
                return True
    return False


def _short(name: str) -> str:
    """The part of a name that its temporary names repeat, which must not become too long."""
    return name if len(os.fsencode(name)) <= 200 else hashlib.sha256(os.fsencode(name)).hexdigest()


@contextmanager
def _temporary(destination: Path, kind: str, make: Any) -> Iterator[Path]:
    """Yield a new temporary file or directory beside `destination`; remove it in the end."""
    held: int | None = None
    while True:
        made = make(dir=destination.parent, prefix=f".{_short(destination.name)}.{kind}.")
        if isinstance(made, tuple):
            os.close(made[0])
            made = made[1]
        path = Path(made)
        with suppress(Unsupported, FileNotFoundError):
            held = try_lock(path)
        if path.exists():  # a sweeping process can have been faster than the lock
            break
        if held is not None:
            os.close(held)
    try:
        yield path
    finally:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


def is_stream(path: Path) -> bool:
    """Return whether `path` is written to rather than replaced: a pipe, a device, /dev/stdout.

    /dev/stdout may be a regular file. Other files below /dev are files, as in /dev/shm.
    """
    if _of_a_process(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _of_a_process(path: Path) -> str | None:
    """Return the name in /dev or /proc that a path is or leads to, such as /dev/stdout."""
    step = path.absolute()
    for _ in range(40):
        if str(step) in _STANDARD or str(step).startswith(("/dev/fd/", "/proc/")):
            return str(step)
        if not step.is_symlink():
            break
        step = Path(os.path.normpath(step.parent / os.readlink(step)))
    return None


@contextmanager
def _streaming(destination: Path) -> Iterator[Path]:
    """Yield a temporary path; write its bytes to a pipe or a device when the block ends."""
    with tempfile.TemporaryDirectory() as place:
        temporary = Path(place) / destination.name
        temporary.touch()
        yield temporary
        _compress(temporary, destination)
        with _opened_stream(destination) as stream, open(temporary, "rb") as file:
            while block := file.read(1 << 20):
                rest = memoryview(block)
                while rest:
                    rest = rest[stream.write(rest) :]


_OPEN = re.compile(r"/(?:dev|proc/self)/(?:fd/(\d+)|(stdout|stderr))")
"""Names of descriptors that are open in this process."""


def _opened_stream(path: Path) -> BinaryIO:
    """Return a pipe or a device, opened for writing without a buffer.

    `/dev/stdout` and the like may be a file that already has lines and gets further ones: they are
    written through the descriptor that is open, whose place in the file moves with them. Raises
    `UserError` if it is not.
    """
    number = _descriptor(path)
    if number is None:
        return open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb", buffering=0)
    try:
        return open(os.dup(number), "wb", buffering=0)
    except OSError as error:
        raise UserError(f"{path} is not open for writing: name another output") from error


def _descriptor(path: Path) -> int | None:
    """Return the open descriptor that a path names or leads to: 1 for /dev/stdout."""
    named = _OPEN.fullmatch(_of_a_process(path) or "")
    if named is None:
        return None
    return int(named[1]) if named[1] else {"stdout": 1, "stderr": 2}[named[2]]


_MAGIC = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\0"}
_NOT_WRITTEN = (".bz2", ".zst", ".zip", ".7z", ".lz4", ".lzma", ".tgz", ".tar")
"""Suffixes that promise a format in which nothing is written here."""


def _compress(temporary: Path, name: Path) -> None:
    """Compress a file in place as `name` says it is, unless it is compressed already."""
    magic = _MAGIC.get(compression(name))
    if magic is None:
        return
    with open(temporary, "rb") as file:
        if file.read(len(magic)) == magic:
            return
    beside = temporary.with_name(name.name)
    with _temporary(beside, "new", tempfile.mkstemp) as packed:
        with open(temporary, "rb") as file, compressing(packed, name) as stream:
            shutil.copyfileobj(file, stream)
        shutil.copyfile(packed, temporary)


def _mode(destination: Path) -> int:
    """Return the permissions of a file that is replaced, or those of a new one."""
    try:
        return stat.S_IMODE(destination.stat().st_mode)
    except OSError:
        return 0o666 & ~_umask()


def check_writable(destination: Path | str) -> None:
    """Raise `UserError` if a file cannot be written, as far as can be known before the work."""
    path = _named(destination)
    if path.is_dir():
        raise UserError(f"{path} is a directory, and a file is to be written there: name a file")
    if is_stream(path):
        if not os.access(path, os.W_OK):
            raise UserError(f"{path} cannot be written: name another file")
        return
    _check_place(path)


def _check_place(path: Path) -> None:
    """Raise `UserError` if nothing can be written beside `path`, whose directories may be new."""
    place = Path(os.path.realpath(path)).parent
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return
    except OSError as error:
        raise UserError(
            f"could not write {path}: {error.strerror or error}: free space or choose another place"
        ) from error


class Journal:
    """A file that grows by whole pieces, to be read while it is written: after any end it holds
    whole pieces only.
    """

    def __init__(self, path: Path, file: BinaryIO, shared: bool) -> None:
        """Write to an open file; one that is `shared` has other writers, and is never cut."""
        self._path, self._file, self._shared, self._whole = path, file, shared, 0

    def write(self, piece: str) -> None:
        """Append a piece, at once. A disk that fills up in the middle of it leaves the file without
        it.
        """
        rest = whole = piece.encode("utf-8")
        with write_errors(self._path, kept="what was written before is whole"):
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
                self._whole += len(whole)
            except BaseException:
                if not self._shared:
                    with suppress(OSError):
                        self._file.truncate(self._whole)
                raise


@contextmanager
def journal(path: Path) -> Iterator[Journal]:
    """Begin a file anew that is written piece by piece.

    Raises `UsageError` for the name of a compressed file, which cannot be read while it grows, and
    `UserError` where it cannot be written.
    """
    _named(path)
    if compression(path):
        raise UsageError(
            f"{path} grows line by line and is not compressed: name it without {path.suffix}"
        )
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Closed below: what happens in between has other errors.
        shared = is_stream(path)
        file = _opened_stream(path) if shared else open(path, "wb", buffering=0)  # noqa: SIM115
    with file:
        yield Journal(path, file, shared)


def write_json(destination: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with replacing_file(destination) as temporary:
        temporary.write_text(json_text(value) + "\n", encoding="utf-8")


def json_text(value: Any) -> str:
    """Return `value` as indented JSON; what is no UTF-8 in the name of a file becomes U+FFFD."""
    return _SURROGATE.sub("\ufffd", json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def compressing(path: Path, name: Path) -> Iterator[BinaryIO | gzip.GzipFile | lzma.LZMAFile]:
    """Open `path` for writing bytes, compressed as `name` says it is (.gz, .xz; anything else: not
    at all).

    The same bytes give the same file: no time and no name is written into it.
    """
    with open(path, "wb") as file:
        if compression(name) == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                yield packed
        elif compression(name) == ".xz":
            with lzma.open(file, "wb") as packed:
                yield packed
        else:
            yield file


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def write_errors(destination: Path, kept: str = "nothing was changed there") -> Iterator[None]:
    """Turn what is the destination's fault into one line that says what was `kept`.

    Raises `ReaderLeft` where the destination is standard output and nobody reads it any more.
    """
    try:
        yield
    except ReaderLeft:  # of another destination, inside the block
        raise
    except OSError as error:
        if error.errno == errno.EPIPE and _descriptor(destination) == 1:
            raise ReaderLeft(error.errno, error.strerror) from error
        full = _SHORT_WRITE.fullmatch(str(error)) is not None
        if error.errno not in _CANNOT_WRITE and not full:
            raise
        reason = os.strerror(errno.ENOSPC) if full else error.strerror or str(error)
        raise UserError(
            f"could not write {_final(destination)}: {reason}; {kept}: free space or choose "
            "another place"
        ) from error


def _final(path: Path) -> Path:
    """Return the path that a file has once the directories it is written in are in place."""
    found = [LEFTOVER.fullmatch(part) for part in path.parts]
    pairs = zip(found, path.parts, strict=True)
    return Path(*(match["name"] if match else part for match, part in pairs))


def _exchange(incoming: Path, destination: Path) -> None:
    """Move `incoming` to `destination`; what stood there is put back if that fails, and deleted if
    it does not.
    """
    if not destination.exists():
        os.replace(incoming, destination)
        return
    with _temporary(destination, "old", tempfile.mkdtemp) as outgoing:
        os.replace(destination, outgoing / "old")
        try:
            os.replace(incoming, destination)
        except OSError:
            os.replace(outgoing / "old", destination)
            raise


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
