"""Make docs/cli.md: the reference of all verbs and options, read from the command line itself."""

from __future__ import annotations

from typing import Any

import typer

from multistride.cli import app
from multistride.cli.help import PANELS, help_record

_EXAMPLE = "Example: "

_INTRODUCTION = """\
# Command line

This page is generated from the command line itself (`python docs/tools/pages.py`), and a test
checks that it is up to date. `multistride VERB --help` prints the same in the terminal.

Results go to stdout, everything else to stderr. Verbs that read lines write one line for each, in
order; a line that fails becomes an empty line, stderr names it, and the exit code is 4. Empty input
gives empty output, a warning and exit code 0; files to measure or train on must not be empty.

| exit code | meaning |
| --: | :-- |
| 0 | success |
| 1 | failure at run time |
| 2 | usage or configuration |
| 3 | an optional extra is missing; the message names it |
| 4 | bad data or checkpoint |
| 5 | a required quality or speed was not reached |
| 130 | stopped by Ctrl-C, SIGTERM or SIGHUP; where work resumes, the same command resumes it |
"""


def reference() -> str:
    """Return the page."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("multistride", [], resilient_parsing=True)
    panels: dict[str, list[Any]] = {}
    for verb in group.commands.values():
        if not verb.hidden:
            panels.setdefault(getattr(verb, "rich_help_panel", None) or "Verbs", []).append(verb)
    lines = [_INTRODUCTION]
    lines += ["| | verbs |", "| :-- | :-- |"]
    for panel, verbs in panels.items():
        links = " · ".join(f"[`{verb.name}`](#{_first(verb)})" for verb in verbs)
        lines.append(f"| {panel} | {links} |")
    lines += ["", "## Before the verb", "", *_table(group, context), ""]
    for verbs in panels.values():
        for verb in verbs:
            for each in getattr(verb, "commands", {"": verb}).values():
                name = verb.name if each is verb else f"{verb.name} {each.name}"
                inner = {"info_name": name, "parent": context, "resilient_parsing": True}
                lines += _verb(name, each, type(context)(each, **inner))
    return "\n".join(lines).rstrip() + "\n"


def _verb(name: str, verb: Any, context: Any) -> list[str]:
    """Return the section of one verb."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in (verb.help or "").split("\n\n")]
    examples = [p.removeprefix(_EXAMPLE) for p in paragraphs if p.startswith(_EXAMPLE)]
    usage = " ".join(verb.collect_usage_pieces(context))
    lines = [f"## {name}", ""]
    for paragraph in paragraphs:
        if paragraph and not paragraph.startswith(_EXAMPLE):
            lines += [_escaped(paragraph), ""]
    lines += ["```text", f"multistride {name} {usage}", *examples, "```", ""]
    return [*lines, *_table(verb, context), ""]


def _first(verb: Any) -> str:
    """Return the anchor of a verb, or of the first verb of a group."""
    return "-".join([verb.name, *list(getattr(verb, "commands", {}))[:1]])


def _table(command: Any, context: Any) -> list[str]:
    """Return a table of the options of a command, panel by panel."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = help_record(parameter, context)
        if record is not None and "--help" not in parameter.opts:
            panel, option, text = record
            panels.setdefault(panel, []).append((option, text))
    own = [name for name in panels if name not in PANELS]
    order = [name for name in ("Arguments", *own, *PANELS[1:]) if name in panels]
    lines = ["| option | what it does |", "| :-- | :-- |"] if panels else []
    for name in order:
        if len(order) > 1:
            lines.append(f"| **{name}** | |")
        for option, text in panels[name]:
            shown = option.replace("|", "\\|")
            lines.append(f"| `{shown}` | {_escaped(text)} |")
    return lines


def _escaped(text: Any) -> str:
    """Return text of a help page as Markdown that shows it unchanged."""
    parts = " ".join(str(text).split()).replace("|", "\\|").split("`")
    # Every second part stood between backticks, where signs mean themselves.
    parts[::2] = [part.replace("<", "\\<").replace("*", "\\*") for part in parts[::2]]
    return "`".join(parts)
