"""Traces for people: what each step proposed and kept, and why, as a table and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from multistride.data.pieces import group_texts
from multistride.errors import DataError, UsageError
from multistride.report.cells import Cells
from multistride.report.drawing import COLOURS, FAINT, tidy
from multistride.untrusted import parse_json, read_lines


class _Step(BaseModel):
    """The fields of a step that a table and a picture need; it may have more."""

    model_config = ConfigDict(strict=True)

    line: int
    step: int
    group_size: int = Field(ge=1)
    accepted: int = Field(ge=0)
    mode: str
    why: str
    confidence: float
    pieces: list[str]
    log_probabilities: list[float] = []

    @model_validator(mode="after")
    def _fits(self) -> _Step:
        if self.accepted > min(self.group_size, len(self.pieces)):
            raise ValueError("more was kept than written")
        return self


def read_trace(path: Path, line: int) -> list[dict[str, Any]]:
    """Return the steps of one input line of a trace.

    Raises `DataError` if the file is no trace, `UsageError` if it has no such line.
    """
    if not path.exists():
        raise DataError(f"{path} cannot be read: it does not exist: check the path")
    try:
        entries = [parse_json(row) for row in read_lines(path)]
        for entry in entries:
            _Step.model_validate(entry)
    except ValueError:
        entries = []
    if not entries:
        raise DataError(f"{path} is no trace: give a file that `translate --trace` wrote")
    found = [entry for entry in entries if entry["line"] == line]
    if not found:
        lines = sorted({entry["line"] for entry in entries})
        raise UsageError(
            f"{path} has no step of line {line}: it has lines from {lines[0]} to {lines[-1]}"
        )
    return found


def trace_table(entries: Sequence[Mapping[str, Any]]) -> Cells:
    """Return one row a step: what it proposed, kept and wrote, and why."""
    headings = ["step", "K", "kept", "confidence %", "wrote", "why so many were proposed"]
    headings.append("why no more were kept")
    texts = group_texts([entry["pieces"] for entry in entries])
    rows = [
        [
            *(str(entry[name]) for name in ("step", "group_size", "accepted")),
            f"{100 * entry['confidence']:.0f}",
            text,
            str(entry.get("why_group_size", "")),
            str(entry["why"]),
        ]
        for entry, text in zip(entries, texts, strict=True)
    ]
    return Cells(headings, [True] * 4 + [False] * 3, rows)


def draw_trace(figure: Any, entries: Sequence[Mapping[str, Any]]) -> None:
    """Draw the steps from top to bottom: proposed places in outline, kept ones filled.

    Fillings are stronger where the model was more confident. Each kept place holds its piece; at
    the right is why so many were proposed, and why no more were kept.
    """
    width, height = figure.get_size_inches()
    largest = max(entry["group_size"] for entry in entries)
    cells = 0.82 * largest / width
    axes = figure.add_axes((0.6 / width, 0.2 / height, cells, 1 - 1.05 / height))
    figure.text(0.02, 1 - 0.25 / height, "Why this K", fontsize=14, weight="bold", va="center")
    mode = f"mode {entries[0]['mode']}, policy {entries[0].get('policy', 'fixed')}"
    caption = (
        f"{mode}: each row is a step, each box a token; filled boxes were kept, and darker means "
        "more confident"
    )
    figure.text(0.02, 1 - 0.53 / height, caption, fontsize=9, color=FAINT, va="center")
    for row, entry in enumerate(entries):
        _draw_step(axes, row, entry, largest)
    axes.set_xlim(0, largest)
    axes.set_ylim(len(entries), 0)
    axes.set_xticks([])
    axes.set_yticks(
        [row + 0.5 for row in range(len(entries))],
        [f"K={entry['group_size']}" for entry in entries],
    )
    tidy(axes)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def trace_size(entries: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the inches that fit the steps."""
    return 0.6 + 0.82 * max(entry["group_size"] for entry in entries) + 4.3, 1.05 + 0.42 * len(
        entries
    )


def _draw_step(axes: Any, row: int, entry: Mapping[str, Any], largest: int) -> None:
    scores = entry.get("log_probabilities", [])
    for place in range(entry["group_size"]):
        kept = place < entry["accepted"]
        sure = math.exp(min(0.0, scores[place])) if place < len(scores) else 0.0
        look = (
            {"facecolor": COLOURS[0], "alpha": 0.12 + 0.5 * sure}
            if kept
            else {"facecolor": "white"}
        )
        box = {"edgecolor": FAINT, "linewidth": 0.8, **look}
        axes.barh(row + 0.5, 0.92, height=0.76, left=place + 0.04, **box)
        if kept:
            piece = entry["pieces"][place].strip() or "␣"
            axes.text(
                place + 0.5, row + 0.5, piece, fontsize=8, ha="center", va="center", clip_on=True
            )
    reasons = "\n".join(
        text for text in (entry.get("why_group_size"), f"kept: {entry['why']}") if text
    )
    axes.text(
        largest + 0.12, row + 0.5, reasons, fontsize=7.5, color=FAINT, va="center", linespacing=1.25
    )
