"""The pages that `--help` prints: options in panels, examples as they can be typed.

typer groups options only where rich draws the page, which takes twice as long and breaks lines that
are to be copied. So the sections are written here, as plain text.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

PANELS = ("Input", "Decoding", "Sampling", "Text rules", "Output", "Machine")
"""The order of panels; others follow, and what has none comes first."""

_EXAMPLE = "Example: "


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
        return super().parse_args(ctx, [word for words in complete for word in words])

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
            record = parameter.get_help_record(ctx)
            if record is not None:
                panel = getattr(parameter, "rich_help_panel", None)
                panels.setdefault(panel or "Options", []).append(record)
        others = [name for name in panels if name not in PANELS]
        for name in (*(p for p in PANELS if p in panels), *others):
            with formatter.section(name):
                formatter.write_dl(panels[name], col_max=24)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, each on one line however long."""
        _, examples = _split(self.help or "")
        if examples:
            formatter.write(f"\n{'Example' if len(examples) == 1 else 'Examples'}:\n")
            formatter.write("".join(f"  {example}\n" for example in examples))


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
