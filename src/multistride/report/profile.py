"""Where the time of decoding goes: what `benchmarks/profile_parts.py` writes, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue

from multistride.report.results import Amount, Count, Record, read_record
from multistride.report.tables import ABSENT, markdown_line, milliseconds


class Parts(Record):
    """Milliseconds per sentence by part, at one batch size and K; `all` is the whole."""

    batch_size: Count
    group_size: Count
    ms_per_sentence: dict[str, Amount]


class Profile(Record):
    """One profile of one model on one engine."""

    settings: dict[str, JsonValue]
    parts: Annotated[tuple[Parts, ...], Field(min_length=1)]


def read_profile(path: Path) -> Profile:
    """Read a profile. Raises `DataError`, in one line, if the file is missing or none."""
    return read_record(
        path, Profile, "a profile", "write one with: python benchmarks/profile_parts.py"
    )


def profile_markdown(profile: Profile) -> str:
    """A heading that says what was measured on what, and a table of milliseconds with their share
    of the whole.
    """
    settings = profile.settings
    found = dict.fromkeys(name for row in profile.parts for name in row.ms_per_sentence)
    names = [*(name for name in found if name != "all"), "all"]
    lines = [
        f"{settings.get('model')}: engine {settings.get('engine')} ({settings.get('precision')}), "
        f"{settings.get('threads')} thread(s), {settings.get('cpu')}. Milliseconds per sentence (% of all).",
        "",
        markdown_line(["batch", "K", *names]),
        markdown_line(["--:"] * (2 + len(names))),
    ]
    for row in profile.parts:
        whole = row.ms_per_sentence["all"]
        cells = [_share(row.ms_per_sentence.get(name), whole) for name in names]
        lines.append(markdown_line([f"{row.batch_size}", f"{row.group_size}", *cells]))
    return "\n".join(lines) + "\n"


def _share(value: float | None, whole: float) -> str:
    if value is None or not whole:
        return ABSENT
    return (
        milliseconds(value)
        if value == whole
        else f"{milliseconds(value)} ({100 * value / whole:.0f})"
    )
