"""What a person sees of a run: a live line on a terminal, a plain line now and then elsewhere. All on stderr."""

from __future__ import annotations

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
"""How often a line is printed where stderr is not a terminal."""


class Monitor:
    """Shows stage, step, loss, tokens/s and the time left."""

    def __init__(self, stage: str, console: Console | None = None) -> None:
        self.stage = stage
        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._updates = 0
        self._first = 0
        self._began = self._printed = time.monotonic()

    @contextmanager
    def showing(self, updates: int, done: int) -> Iterator[None]:
        """Show progress towards `updates`, `done` of which are already behind us."""
        self._updates, self._first = updates, done
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
            self._progress.add_task(self.stage, total=updates, completed=done, facts="")
            yield
        self._progress = None

    def updated(self, update: int, loss: float, tokens_per_second: float) -> None:
        """Take note of a finished update; `loss` is in nats per token."""
        facts = f"loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s"
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=update, facts=facts)
        elif time.monotonic() - self._printed > PLAIN_EVERY_SECONDS:
            self._printed = time.monotonic()
            left = (self._printed - self._began) / (update - self._first) * (self._updates - update)
            self._say(f"{self.stage}: update {update}/{self._updates}  {facts}  {left / 60:.0f} min left")

    def validated(self, update: int, metrics: dict[str, float]) -> None:
        """Print the result of a validation."""
        shown = "  ".join(f"{name.removeprefix('validation_')} {value:.3f}" for name, value in metrics.items())
        self._say(f"{self.stage}: update {update}/{self._updates}  validation  {shown}")

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
