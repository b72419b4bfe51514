"""Show the progress of a long job on stderr.

A terminal gets a live line; a file or a pipe gets a plain line now and then.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_EVERY_SECONDS = 30.0
"""Seconds between lines where stderr is not a terminal."""


class ProgressLine:
    """The number of units of a job that are done, some facts, and the time left.

    `stage` names the job and `unit` what is counted, as in "update 5/20". Nothing is shown if the
    log level of the package was set above INFO (`--quiet`).
    """

    def __init__(self, stage: str, unit: str, console: Console | None = None) -> None:
        self.stage, self.unit = stage, unit
        quiet = logging.getLogger("multistride").level > logging.INFO
        # Rich takes a pipe for a terminal where FORCE_COLOR is set, as it is in a notebook.
        terminal = None if sys.stderr.isatty() else False
        self.console = console or Console(stderr=True, quiet=quiet, force_terminal=terminal)
        self._progress: Progress | None = None
        self._total = self._first = self._done = 0
        self._began = self._printed = time.monotonic()

    @contextmanager
    def showing(self, total: int, done: int) -> Iterator[None]:
        """Show progress towards `total` units, `done` of which are done already."""
        self._total, self._first, self._done = total, done, done
        self._began = self._printed = time.monotonic()
        if not self.console.is_terminal:
            yield
            return
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as self._progress:
            self._progress.add_task(self.stage, total=total, completed=done, facts="")
            yield
        self._progress = None

    @property
    def rate(self) -> float:
        """Return units per second since `showing` began."""
        return (self._done - self._first) / max(time.monotonic() - self._began, 1e-9)

    def reached(self, done: int, facts: str) -> None:
        """Show that `done` units are done, with some facts."""
        self._done = done
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done, facts=facts)
        elif time.monotonic() - self._printed > PLAIN_EVERY_SECONDS:
            self._printed = time.monotonic()
            left = (self._total - done) / max(self.rate, 1e-9)
            self.say(f"{self._place(done)}  {facts}  {left / 60:.0f} min left")

    def note(self, done: int, facts: str) -> None:
        """Print facts about unit `done` at once, above the live line if there is one."""
        self.say(f"{self._place(done)}  {facts}")

    def say(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _place(self, done: int) -> str:
        return f"{self.stage}: {self.unit} {done}/{self._total}"
