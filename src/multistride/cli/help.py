"""The pages that `--help` prints: options in panels, examples as they can be typed.

typer groups options only where rich draws the page, which takes twice as long and breaks lines that
are to be copied. So the sections are written here, as plain text.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

from multistride.errors import UsageError

PANELS = ("Arguments", "Input", "Decoding", "Sampling", "Text rules", "Output", "Machine")
"""The order of panels; those of one verb alone stand behind its arguments."""

TYPES = {
    "<str>": "<text>",
    "<list[str]>": "<text>",
    "<list[Path]>": "<path>",
    "<int range>": "<int>",
}
"""What users are told instead of the types that typer shows."""

_EXAMPLE = "Example: "


DIRECTORY = "<directory>"
"""Metavar of options for a directory to write; other paths of the panel Output are files."""

LONE = {"--ray": "local"}
"""Values of options that may stand without one, which typer does not offer."""


class Verb(TyperCommand):
    """A verb whose help has panels, and its examples last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; a lone option gets its value."""
        following = [*args[1:], "--"]
        complete = [
            [word, LONE[word]] if word in LONE and after.startswith("-") else [word]
            for word, after in zip(args, following, strict=False)
        ]
        words = [word for pair in complete for word in pair]
        given, _, order = self.make_parser(ctx).parse_args(args=list(words))
        rest = super().parse_args(ctx, words)
        check_values(order, given, ctx.params)
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line, arguments in capitals, as everywhere else."""
        plain = [re.sub(r"\{(\w+)\}", r"\1", piece) for piece in super().collect_usage_pieces(ctx)]
        return [piece.upper() for piece in plain]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the description without the examples."""
        paragraphs, _ = _split(self.help or "")
        for paragraph in paragraphs:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(paragraph)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, panel by panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := help_record(parameter, ctx):
                panel, option, text = record
                panels.setdefault(panel, []).append((option, text))
        own = [name for name in panels if name not in (*PANELS, "Options")]
        for name in ("Arguments", *own, *PANELS[1:], "Options"):
            if name not in panels:
                continue
            with formatter.section(name):
                formatter.write_dl(panels[name], col_max=24)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, each on one line however long."""
        _, examples = _split(self.help or "")
        if examples:
            formatter.write(f"\n{'Example' if len(examples) == 1 else 'Examples'}:\n")
            formatter.write("".join(f"  {example}\n" for example in examples))


def help_record(parameter: Any, context: Any) -> tuple[str, str, str] | None:
    """Return the panel of a parameter, how it is given, and its help; None if it is hidden."""
    record = parameter.get_help_record(context)
    if record is None:
        return None
    name, text = record
    for python, plain in TYPES.items():
        name = name.replace(python, plain)
    if parameter.param_type_name == "argument":
        argument, space, kind = name.partition(" ")
        return "Arguments", argument.upper() + space + kind, text
    return getattr(parameter, "rich_help_panel", None) or "Options", name, text


def check_values(order: Sequence[Any], given: Mapping[str, Any], parsed: Mapping[str, Any]) -> None:
    """Raise `UsageError` for what no option takes, and for an option that would not count.

    `order` has the parameters as often as they were given, `given` their texts, `parsed` their
    values. Numbers must be finite and fit 64 bits, texts be UTF-8, paths not be empty, and files to
    write not end in a slash, which a `Path` forgets.
    """
    for parameter in {id(each): each for each in order}.values():
        name = next((word for word in parameter.opts if word.startswith("--")), parameter.name)
        single = parameter.nargs == 1 and not getattr(parameter, "multiple", False)
        if single and not getattr(parameter, "is_flag", False) and order.count(parameter) > 1:
            raise UsageError(f"{name} was given {order.count(parameter)} times: give it once")
        value = parsed.get(parameter.name)
        for each in value if isinstance(value, list | tuple) else [value]:
            _check_value(name, each, given.get(parameter.name) == "")
        is_file = getattr(parameter, "rich_help_panel", "") == "Output" and isinstance(value, Path)
        if is_file and parameter.metavar != DIRECTORY:
            _check_file(name, str(given[parameter.name]))


def _check_value(name: str, value: Any, empty: bool) -> None:
    if isinstance(value, Path) and empty:
        raise UsageError(f"{name} is empty, and takes a path: give one (an unset variable?)")
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise UsageError(f"{name} is {value}, and takes numbers below 2^63: give a smaller one")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name} is {value}, and takes finite numbers: give one")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UsageError(f"{name} has bytes that are no UTF-8: {ascii(value)[:80]}; give text")


def _check_file(name: str, text: str) -> None:
    if text.endswith(tuple(filter(None, ("/", os.sep, os.altsep)))):
        raise UsageError(f"{name} is {text}, a directory, and a file is written: name a file in it")


class Verbs(TyperGroup):
    """The list of verbs, in panels."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the verbs with their first sentences."""
        panels: dict[str, list[Any]] = {}
        for command in self.commands.values():
            if not command.hidden:
                panel = getattr(command, "rich_help_panel", None) or "Commands"
                panels.setdefault(panel, []).append(command)
        width = max(len(name) for name in self.commands)
        for panel, commands in panels.items():
            with formatter.section(panel):
                rows = [(f"{c.name:{width}}", _first_sentence(c.help or "")) for c in commands]
                formatter.write_dl(rows)


def _split(text: str) -> tuple[list[str], list[str]]:
    """Return the paragraphs of a docstring and, apart, its examples."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    examples = [p.removeprefix(_EXAMPLE) for p in paragraphs if p.startswith(_EXAMPLE)]
    return [p for p in paragraphs if not p.startswith(_EXAMPLE)], examples


def _first_sentence(text: str) -> str:
    first = _split(text)[0][0] if text else ""
    return first.partition(". ")[0].rstrip(".")
