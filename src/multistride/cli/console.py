"""Between the verbs and the terminal: streams, one-line errors, exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from pydantic import ValidationError

from multistride.data.corpus import read_lines
from multistride.errors import Interrupted, UsageError, UserError
from multistride.files import Journal, journal, replacing_file

_COMMAND_LINE_ERROR: Any = typer.BadParameter.__mro__[2]
"""What typer raises for anything wrong with the command line; its home has moved between versions
of typer."""


def run(app: Callable[..., Any]) -> NoReturn:
    """Run the command line; every failure is one line on stderr and a documented exit code."""
    try:
        outcome = app(standalone_mode=False)
        sys.stdout.flush()
        if (
            outcome == Interrupted.exit_code
        ):  # some versions of typer swallow Ctrl-C and give its code back
            raise KeyboardInterrupt
        sys.exit(outcome if isinstance(outcome, int) else 0)
    except _COMMAND_LINE_ERROR as error:
        _fail(
            f"{error.format_message()}{_given(error)} (see multistride --help)",
            UsageError.exit_code,
        )
    except UserError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", Interrupted.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(
            f"{error.filename or 'writing the output'}: {error.strerror or error}",
            UserError.exit_code,
        )


def leave(code: int) -> NoReturn:
    """End the process; all that it wrote is on its way.

    Where torch was used the interpreter is not taken down. That takes most of a second in which
    Ctrl-C prints a traceback; and gloo's threads, which nobody can join once a model was wrapped
    for data-parallel training, as destroying the group leaves them, abort the process if they let
    go of a tensor meanwhile (torch 2.13).
    """
    if "torch" not in sys.modules:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _given(error: Exception) -> str:
    """What was given for an option that typer refused; typer checks with pydantic, whose error
    keeps the value.
    """
    cause = error.__cause__
    return (
        f", {cause.errors()[0]['input']!r} was given" if isinstance(cause, ValidationError) else ""
    )


def _fail(message: str, code: int) -> NoReturn:
    print(f"multistride: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def say(line: str) -> None:
    """Tell the person something, on stderr."""
    print(line, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print one JSON value on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


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


def number(text: str) -> int:
    """The value of --group-size 4. Raises `UsageError` with what was given."""
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(
            f"--group-size takes one whole number such as 4; {text!r} was given"
        ) from error


def two(text: str, option: str) -> list[str]:
    """The two values of an option such as --columns 0,1. Raises `UsageError` with what was
    given.
    """
    parts = text.split(",")
    if len(parts) != 2:
        raise UsageError(f"{option} takes two values such as a,b; {text!r} was given")
    return parts


@contextmanager
def reading(path: Path | None) -> Iterator[Any]:
    """The lines of a file (.gz and .xz too), or of stdin."""
    if path is None:
        yield sys.stdin.buffer
        return
    yield read_lines(path)


@contextmanager
def writing(path: Path | None) -> Iterator[Any]:
    """A text stream: stdout, or a file that appears when it is complete."""
    if path is None:
        yield sys.stdout
        return
    with replacing_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield file


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
