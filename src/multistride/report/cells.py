"""Tables: columns described once, shown in the terminal, in Markdown and as HTML.

A `Column` says what a cell of a row is; `Cells` is the table as text. The three forms are made from
the same cells, so they cannot disagree.
"""

from __future__ import annotations

import errno
import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from multistride.report.result import Row

ABSENT = "–"

Show = Callable[[Row, Row | None], str | None]
"""Text of one cell from its row and the row it is compared with (None: there is none)."""


@dataclass(frozen=True)
class Column:
    """One column: its heading, its meaning in one sentence, and the cell of a row.

    Numbers stand to the right of their column, so that digits line up; words to the left. A cell
    without a value is None. A column that is not `brief` is left out where there are 80 characters.
    """

    heading: str
    meaning: str
    show: Show
    numeric: bool = True
    brief: bool = True


@dataclass(frozen=True)
class Cells:
    """A table as text: headings, which of them stand over numbers, rows, and what columns mean."""

    headings: Sequence[str]
    numeric: Sequence[bool]
    rows: Sequence[Sequence[str]]
    meanings: Sequence[str] = ()
    title: str = ""
    caption: str = ""
    after: Sequence[str] = ()
    """Lines under the Markdown table: signatures."""
    sections: int = 0
    """A line is drawn after so many rows; 0: none."""

    def markdown(self) -> str:
        """Return the table in Markdown, ending with a line break."""
        marks = ["--:" if number else ":--" for number in self.numeric]
        lines = [markdown_line(line) for line in (self.headings, marks, *self.rows)]
        return "\n".join([*lines, *(("", *self.after) if self.after else ())]) + "\n"

    def terminal(self) -> InTerminal:
        """Return the table for the terminal, in several parts where it is too wide for one."""
        return InTerminal(self)

    def widths(self) -> list[int]:
        """Return how many characters each column needs: those of a number or a word stay together,
        words may stand one below the other.
        """
        widths = []
        for index, (heading, number) in enumerate(zip(self.headings, self.numeric, strict=True)):
            cells = max((len(row[index]) for row in self.rows), default=0)
            heads = max(map(len, narrow(heading, cells).split("\n")))
            words = [len(word) for row in self.rows for word in row[index].split()]
            least = max(cells, heads) if number else max(*words, heads, 1)
            widths.append(least if number else min(least, _FOLDED))
        return widths

    def parts(self, width: int) -> list[Cells]:
        """Return the table cut into parts of so many characters at most; each begins with the
        columns that name its rows. A part that cannot be as narrow is wider.
        """
        if self._drawn_width() <= width:
            return [self]
        needed = [each + 2 for each in self.widths()]  # two blanks between them
        keys = 1
        while keys < len(needed) and (not self.numeric[keys] or self.headings[keys] in _KEYS):
            keys += 1
        named = list(range(keys))
        free = width - sum(needed[:keys])
        parts = [named.copy()]
        for index in range(keys, len(needed)):
            if needed[index] > free and len(parts[-1]) > keys:
                parts.append(named.copy())
                free = width - sum(needed[:keys])
            parts[-1].append(index)
            free -= needed[index]
        return [
            replace(
                self,
                headings=[self.headings[index] for index in part],
                numeric=[self.numeric[index] for index in part],
                rows=[[row[index] for index in part] for row in self.rows],
                title="",
                caption="",
            )
            for part in parts
        ]

    def _drawn_width(self) -> int:
        gap = 2 if len(self.headings) <= _ROOMY else 1
        return sum(self.widths()) + gap * len(self.headings) + 1

    def table(self, width: int) -> Table:
        """Return the table in one part, for a terminal of this width; headings are broken to the
        width of their cells, and numbers only where one column is too wide for the terminal.
        """
        fits = self._drawn_width() <= width
        table = Table(
            title=Text(self.title) if self.title else None,
            title_justify="left",
            caption=Text(self.caption) if self.caption else None,
            caption_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0) if len(self.headings) <= _ROOMY else 0,
            pad_edge=False,
        )
        for index, (heading, number) in enumerate(zip(self.headings, self.numeric, strict=True)):
            width = max((len(row[index]) for row in self.rows), default=0)
            name = Text(narrow(heading, width))
            table.add_column(
                name,
                justify="right" if number else "left",
                overflow="fold",
                no_wrap=number and fits,
            )
        for index, row in enumerate(self.rows, start=1):
            ends = bool(self.sections) and index % self.sections == 0
            table.add_row(*map(Text, row), end_section=ends)
        return table

    def html(self) -> str:
        """Return the head and the body of an HTML table; every text is escaped."""
        words = [' class="words"' if not number else "" for number in self.numeric]
        head = "".join(
            f'<th scope="col"{mark if index else ""}>{escape(heading)}</th>'
            for index, (heading, mark) in enumerate(zip(self.headings, words, strict=True))
        )
        body = "\n".join(
            f'<tr><th scope="row">{escape(row[0])}</th>'
            + "".join(
                f"<td{mark}>{escape(cell)}</td>"
                for cell, mark in zip(row[1:], words[1:], strict=True)
            )
            + "</tr>"
            for row in self.rows
        )
        return f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"


class Terminal(Console):
    """Standard output, for tables; a reader that has left (`| head`) is for the caller to judge."""

    def on_broken_pipe(self) -> None:
        """Raise the error, where rich would end the process with exit code 1."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class InTerminal:
    """A table that is cut into parts where the terminal is too narrow for its numbers."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts, one below the other."""
        parts = self._cells.parts(options.max_width)
        if len(parts) > 1 and self._cells.title:
            yield Text(self._cells.title, style="table.title")
        for part in parts:
            yield part.table(options.max_width)
        if len(parts) > 1 and self._cells.caption:
            yield Text(self._cells.caption, style="table.caption")


_ROOMY = 10
"""Columns up to which cells have a blank between them in the terminal."""

_FOLDED = 24
"""Characters of a column of words from which words are broken."""

_KEYS = {"K", "pos."}
"""Numbers that name a row, as words do."""


def cells_of(
    columns: Iterable[Column],
    pairs: Sequence[tuple[Row, Row | None]],
    brief: bool = False,
    keep_empty: bool = False,
) -> Cells:
    """Return the table of rows, each with the row it is compared with.

    With `brief` only brief columns are shown; columns without any value only with `keep_empty`.
    """
    chosen = [column for column in columns if column.brief or not brief]
    texts = [[column.show(row, other) for column in chosen] for row, other in pairs]
    used = [
        index
        for index in range(len(chosen))
        if keep_empty or any(row[index] is not None for row in texts)
    ]
    return Cells(
        [chosen[index].heading for index in used],
        [chosen[index].numeric for index in used],
        [[row[index] or ABSENT for index in used] for row in texts],
        [chosen[index].meaning for index in used],
    )


def figure(heading: str, meaning: str, name: str, form: str = ".1f", times: float = 1) -> Column:
    """Return the column of one figure of a row, by its name, in a format."""

    def show(row: Row, other: Row | None) -> str | None:
        value = row.value(name)
        return None if value is None else format(times * value, form)

    return Column(heading, meaning, show)


def narrow(heading: str, width: int) -> str:
    """Break a heading at blanks, slashes and hyphens to the width of its cells."""
    words = heading.replace("/", "/ ").replace("-", "- ").split()
    lines = textwrap.wrap(
        " ".join(words), max([width, 1, *map(len, words)]), break_on_hyphens=False
    )
    return "\n".join(lines).replace("/ ", "/").replace("- ", "-")


def markdown_line(cells: Sequence[str]) -> str:
    """Return one row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def milliseconds(value: float) -> str:
    """Return a time in about three digits: 0.84, 8.41, 84.1, 841."""
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{decimals}f}"
