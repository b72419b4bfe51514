"""Progress of a training run, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from multistride.progress import ProgressLine


class Monitor:
    """Shows stage, step, loss, tokens/s and the time left."""

    def __init__(self, stage: str, console: Console | None = None) -> None:
        self._line = ProgressLine(stage, "update", console)

    @contextmanager
    def showing(self, updates: int, done: int) -> Iterator[None]:
        """Show progress towards `updates`, `done` of which are already behind us."""
        with self._line.showing(updates, done):
            yield

    def silence(self) -> None:
        """Say nothing from now on: of several processes, one speaks."""
        self._line.console.quiet = True

    def say(self, line: str) -> None:
        """Print a line, unless silenced."""
        self._line.say(line)

    def updated(self, update: int, loss: float, tokens_per_second: float) -> None:
        """Take note of a finished update; `loss` is in nats per token."""
        self._line.reached(update, f"loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s")

    def validated(self, update: int, metrics: dict[str, float]) -> None:
        """Print the result of a validation."""
        shown = "  ".join(
            f"{name.removeprefix('validation_')} {value:.3f}" for name, value in metrics.items()
        )
        self._line.note(update, f"validation  {shown}")
