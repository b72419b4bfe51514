"""The one way between the verbs and the terminal: streams, signals, log lines, exit codes.

Nothing is taken for granted about the standard streams. Any of them may be closed, full, a pipe
whose reader has left, or opened under a locale that is not UTF-8; `open_streams` and `run` deal
with all of that, so the verbs only read, write and log.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import signal
import stat
import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO, TypeVar

import typer
from pydantic import ValidationError

from multistride.data.corpus import text_lines
from multistride.errors import DataError, Interrupted, UsageError, UserError
from multistride.files import Journal, compressing, is_stream, journal, json_text, replacing_file
from multistride.untrusted import bounded_lines

logger = logging.getLogger(__name__)

T = TypeVar("T")

_COMMAND_LINE_ERROR: Any = typer.BadParameter.__mro__[2]
"""What typer raises for anything wrong with the command line; its home has moved between versions
of typer."""

STOPPING_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Signals that end a verb; Windows has no SIGHUP."""

_stopped_by: list[str] = []
"""The signal that ended the work, if one did."""

AFTER_IMPORT, AGAIN = 0.05, 10.0
"""Seconds until a stop is tried again: during an import, and where nothing has come of it."""


def open_streams() -> None:
    """Make the standard streams safe to use. Called once, before anything else is opened.

    A closed stream gets a file descriptor that fails on use: otherwise the next file that is
    opened would take its number, and diagnostics would end up in somebody's data.
    """
    for descriptor, useless in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, useless)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115, open until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A lone surrogate (a file name that is not UTF-8) becomes \udcff, which JSON can read.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Diagnostics()),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


class _Diagnostics(io.RawIOBase):
    """Standard error that never fails: lost diagnostics must not cost the work."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def isatty(self) -> bool:
        return os.isatty(2)

    def write(self, data: Any) -> int:
        rest = bytes(data)
        with suppress(OSError):
            while rest:
                rest = rest[os.write(2, rest) :]
        return len(data)


def hear_signals() -> None:
    """End the work on SIGTERM and SIGHUP as on Ctrl-C; what the caller ignores (nohup) stays so."""
    for number in _stopping():
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)
    sys.unraisablehook = _unheard


def _unheard(unraisable: sys.UnraisableHookArgs) -> None:
    """Say nothing of a stop that a finaliser or a callback lost: it is raised again (`_stop`)."""
    if not (_stopped_by and isinstance(unraisable.exc_value, KeyboardInterrupt)):
        sys.__unraisablehook__(unraisable)


def _stopping() -> list[signal.Signals]:
    return [getattr(signal, name) for name in STOPPING_SIGNALS if hasattr(signal, name)]


def _stop(number: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`, once and where it is heard.

    Extensions that are being imported lose the exception, or abort the process: then it waits. Some
    code that runs between the lines (a finaliser, a callback) loses it too: it is raised again.
    """
    importing = _is_importing(frame)
    _stopped_by[:] = [signal.Signals(number).name]
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, lambda _, later: _stop(number, later))
        signal.setitimer(signal.ITIMER_REAL, AFTER_IMPORT if importing else AGAIN)
        if importing:
            return
    for other in _stopping():  # cleaning up takes a moment: only an impatient Ctrl-C cuts it short
        impatient = other == signal.SIGINT
        signal.signal(other, signal.default_int_handler if impatient else signal.SIG_IGN)
    raise KeyboardInterrupt(
        "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    )


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class _PlainLines(logging.Handler):
    """Log lines as they are, on whatever stderr is now (a live progress line replaces it)."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Print the package's log lines from `level` up on stderr."""
    package = logging.getLogger("multistride")
    package.setLevel(level)
    if not any(isinstance(handler, _PlainLines) for handler in package.handlers):
        package.addHandler(_PlainLines())


def run(app: typer.Typer) -> NoReturn:
    """Run the command line; every failure is one line on stderr and a documented exit code."""
    code = 0
    try:
        try:
            code = _invoked(app)
            sys.stdout.flush()
        finally:
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, 0)  # a stop was heard
    except (KeyboardInterrupt, typer.Abort) as error:
        code = _failed(str(error) or "interrupted", Interrupted.exit_code)
    except Exception as error:
        code = _code_of(error, app)
    _drop_output()
    sys.exit(code)


def _code_of(error: Exception, app: typer.Typer) -> int:
    """Print a failure in one line and return its exit code. Raises what is a fault of ours."""
    if _stopped_by and not isinstance(error, Interrupted):
        # Libraries turn the KeyboardInterrupt that they meet into errors of their own.
        return _failed(f"stopped by {_stopped_by[0]}", Interrupted.exit_code)
    if isinstance(error, _COMMAND_LINE_ERROR):
        return _failed(_of_command_line(error, app), UsageError.exit_code)
    if isinstance(error, UserError):
        return _failed(str(error), error.exit_code)
    if isinstance(error, BrokenPipeError) and _reader_left():
        return 0
    if isinstance(error, OSError):
        return _failed(_of_system(error), UserError.exit_code)
    if _is_out_of_memory(error):
        reason = str(error).strip().partition("\n")[0] or "no memory is left"
        return _failed(
            f"out of memory ({reason}): free some memory, or lower --batch-size if the command "
            "has it",
            UserError.exit_code,
        )
    raise error


def _invoked(app: typer.Typer) -> int:
    """Parse and run; return the exit code.

    typer's own `main` does this too, and swallows Ctrl-C and broken pipes.
    """
    if any(name.endswith("_COMPLETE") and "MULTISTRIDE" in name for name in os.environ):
        app(prog_name="multistride")  # a shell asks for completions
    command = typer.main.get_command(app)
    try:
        with command.make_context("multistride", sys.argv[1:]) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return int(ended.exit_code)
    return 0


def _reader_left() -> bool:
    """Return whether the program that read stdout (`| head`) has seen enough."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _drop_output() -> None:
    """Forget what stdout did not take, or the interpreter would fail on it once more at its end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def leave(code: int) -> NoReturn:
    """End the process; all that it wrote is on its way.

    Where torch or ONNX Runtime was used the interpreter is not taken down. That takes up to a
    second in which Ctrl-C prints a traceback; and gloo's threads, which nobody can join once a
    model was wrapped for data-parallel training, as destroying the group leaves them, abort the
    process if they let go of a tensor meanwhile (torch 2.13). Python itself may end an interrupted
    process by SIGINT instead of by its exit code.
    """
    if not {"torch", "onnxruntime"} & sys.modules.keys() and code != Interrupted.exit_code:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _of_command_line(error: Any, app: typer.Typer) -> str:
    """Return what is wrong with the command line, with what was given and what is near."""
    message = error.format_message().rstrip(".").replace(": Value error, ", ": ")
    cause = error.__cause__  # typer checks with pydantic, whose error keeps the value
    if isinstance(cause, ValidationError) and repr(cause.errors()[0]["input"]) not in message:
        message += f", {cause.errors()[0]['input']!r} was given"
    context = getattr(error, "ctx", None)
    path = [] if context is None else context.command_path.split()[1:]
    verb = " ".join(path) or None
    option = getattr(error, "option_name", None)
    if option is not None and verb is not None and message.startswith("No such option"):
        root: Any = typer.main.get_command(app)
        others = [name for name, command in root.commands.items() if _has(command, option)]
        if _has(root, option):
            message += f" in {verb}; it stands before the verb: multistride {option} {verb}"
        elif others:
            message += f" in {verb}; it is an option of {', '.join(others)}"
    if "unexpected extra argument" in message and _has(context and context.command, "--input"):
        message += f"; {verb} reads stdin, or a file: --input FILE"
    return f"{message} (see multistride {verb + ' ' if verb else ''}--help)"


def _has(command: Any, option: str) -> bool:
    return any(option in parameter.opts for parameter in getattr(command, "params", ()))


def _of_system(error: OSError) -> str:
    """Return what the operating system refused; what names no file is standard output."""
    if error.filename:
        return f"{error.filename}: {error.strerror or error}"
    if error.errno is None:
        return str(error)  # a library's error, of a network for example
    if error.errno == errno.EBADF:
        return (
            "standard output is closed, so the result is lost: give --output, or a place to write"
        )
    if error.errno == errno.ENOENT:
        return "the working directory does not exist any more: change to another one"
    reason = error.strerror or str(error)
    return f"standard output: {reason}, so the result is not complete: write to another place"


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules or not isinstance(error, RuntimeError):
        return False
    from multistride.device import is_out_of_memory

    return is_out_of_memory(error)


def _failed(message: str, code: int) -> int:
    """Print an error in one line; return its exit code."""
    print(f"multistride: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def print_json(value: Any) -> None:
    """Print one JSON value on stdout."""
    print(json_text(value))


def numbers(text: str, option: str = "--group-size") -> tuple[int, ...]:
    """The values of --group-size 1,2,4. Raises `UsageError` with what was given."""
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise UsageError(
            f"{option} takes whole numbers such as 1,2,4; {text!r} was given"
        ) from error


def words(text: str) -> tuple[str, ...]:
    """The values of --mode fast,exact, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def two(text: str, option: str) -> list[str]:
    """The two values of an option such as --columns 0,1. Raises `UsageError` with what was
    given.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2:
        raise UsageError(f"{option} takes two values such as a,b; {text!r} was given")
    return parts


@contextmanager
def reading(path: Path | None) -> Iterator[Iterable[bytes]]:
    """Yield the lines of a file (.gz and .xz too), or of stdin, without their ends.

    Raises `UsageError` if stdin is closed, and `DataError` if lines cannot be read.
    """
    if path is None and sys.stdin is None:
        raise UsageError("standard input is closed: give --input FILE, or lines to read")
    yield noting_none(text_lines(path), path) if path else noting_none(_standard_input())


def noting_none(lines: Iterable[T], path: Path | None = None) -> Iterator[T]:
    """Yield what comes of a file or of stdin; warn if that is nothing, which is no mistake."""
    empty = True
    for line in lines:
        empty = False
        yield line
    if empty:
        logger.warning(f"{path or 'standard input'} is empty: nothing was written")


def _standard_input() -> Iterator[bytes]:
    if sys.stdin.isatty():
        logger.info("reading from the terminal: one input a line; Ctrl-D ends")
    mark = BOM_UTF8
    try:
        for line in bounded_lines(sys.stdin.buffer, "standard input"):
            yield line.removeprefix(mark).removesuffix(b"\n").removesuffix(b"\r")
            mark = b""
    except OSError as error:
        raise DataError(f"standard input: {error.strerror or error}: give --input FILE") from error


@contextmanager
def writing(path: Path | None) -> Iterator[TextIO]:
    """Yield a text stream: stdout, or a file (.gz and .xz too) that appears when it is complete."""
    if path is None:
        yield sys.stdout
        return
    with replacing_file(path) as temporary, compressing(temporary, path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="\n")
        try:
            yield text
            text.flush()
        finally:
            with suppress(OSError, ValueError):
                text.detach()


@contextmanager
def tracing(path: Path | None) -> Iterator[Journal | None]:
    """A file that grows by whole lines while the work goes on, and keeps them however it ends; or
    None.
    """
    if path is None:
        yield None
        return
    with journal(path) as file:
        yield file


def refuse_shared_files(reads: Iterable[Path | None], writes: Iterable[Path | None]) -> None:
    """Raise `UsageError` if one file is to be both read and written, or written twice.

    The files behind stdin and stdout count (`< FILE`, `> FILE`), and so do links of both kinds.
    """
    read = {key for path in reads if path is not None for key in _identities(path)}
    read |= _of_descriptor(0)
    written = _of_descriptor(1)
    for path in writes:
        if path is None or is_stream(path):
            continue  # a device or a pipe can be named more than once
        if _identities(path) & read:
            raise UsageError(f"{path} is also read: name another output")
        if _identities(path) & written:
            raise UsageError(f"{path} is to be written twice: name another output")
        written |= _identities(path)


def refuse_file_of_stdout(path: Path) -> None:
    """Raise `UsageError` if a path leads to the regular file behind stdout, where results go."""
    if _identities(path) & _of_descriptor(1):
        raise UsageError(f"{path} is the file that results are written to: name another one")


def _identities(path: Path) -> set[object]:
    """Return what a file is known by: its path without links, and its number on its disk."""
    keys: set[object] = {os.path.realpath(path)}
    with suppress(OSError):
        entry = path.stat()
        keys.add((entry.st_dev, entry.st_ino))
    return keys


def _of_descriptor(number: int) -> set[object]:
    """Return what the regular file behind an open descriptor is known by; of a pipe nothing."""
    with suppress(OSError):
        entry = os.fstat(number)
        if stat.S_ISREG(entry.st_mode):
            return {(entry.st_dev, entry.st_ino)}
    return set()
