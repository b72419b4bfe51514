"""How soon the command translates: what `benchmarks/startup.py` writes, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue

from multistride.report.results import Amount, Name, Record, read_record
from multistride.report.tables import markdown_line


class Startup(Record):
    """One engine: seconds from the start of the process to its first line, and its largest size
    (2**20 bytes).
    """

    engine: Name
    seconds: Amount
    seconds_spread: tuple[Amount, Amount]
    memory_peak_mb: Amount


class Startups(Record):
    """The engines of one machine."""

    settings: dict[str, JsonValue]
    startups: Annotated[tuple[Startup, ...], Field(min_length=1)]


def read_startups(path: Path) -> Startups:
    """Read such a file. Raises `DataError`, in one line, if it is missing or none."""
    return read_record(
        path, Startups, "a file of start-up times", "write one with: python benchmarks/startup.py"
    )


def startup_markdown(startups: Startups) -> str:
    """A heading that says what was measured on what, and a table."""
    settings = startups.settings
    lines = [
        f"The model that ships, one line, K={settings.get('group_size')}: {settings.get('threads')} thread(s), "
        f"{settings.get('cpu')}, file caches {settings.get('caches')}. Median of {settings.get('runs')} runs.",
        "",
        markdown_line(["engine", "first translation after s", "peak MB"]),
        markdown_line([":--", "--:", "--:"]),
    ]
    for row in startups.startups:
        low, high = row.seconds_spread
        seconds = f"{row.seconds:.2f} ({low:.2f}–{high:.2f})"
        lines.append(markdown_line([row.engine, seconds, f"{row.memory_peak_mb:,.0f}"]))
    return "\n".join(lines) + "\n"
