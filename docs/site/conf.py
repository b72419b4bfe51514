"""Sphinx's configuration of the documentation site; `docs/tools/site.py` calls it."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel
from sphinx.application import Sphinx

from multistride.version import __version__

project = "multistride"
author = "the multistride authors"
release = version = __version__
language = "en"
smartquotes = False  # it makes one dash of the two before an option

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["attrs_block", "html_image"]
myst_heading_anchors = 4
exclude_patterns = ["files/**"]

# Docstrings write code as `code`, as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"multistride {__version__}"
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {"top_of_page_buttons": []}
# `</s>` and `│` make a plain lexer stumble, and some blocks show an error message on purpose.
highlight_language = "text"
suppress_warnings = ["misc.highlighting_failure"]


_BAR = re.compile(r"\|(?=(?:[^`]*`[^`]*`)*[^`]*$)")
"""A bar between two cells, and not one inside `code`."""


def options_of(
    _app: Sphinx, what: str, _name: str, described: Any, _options: Any, lines: list[str]
) -> None:
    """Add the fields of a configuration, which carry their own descriptions, to its docstring."""
    if what != "class" or not issubclass(described, BaseModel):
        return
    lines += ["", "Fields:", ""]
    for name, fact in described.model_fields.items():
        default = "required" if fact.is_required() else repr(fact.get_default())
        lines.append(f"- `{name}` (`{default}`): {fact.description or 'see the class itself'}")


def tables_of(
    _app: Sphinx, _what: str, _name: str, _described: Any, _options: Any, lines: list[str]
) -> None:
    """Turn Markdown tables in a docstring into tables of reStructuredText."""
    changed: list[str] = []
    for line in lines:
        if not line.startswith("|"):
            changed.append(line)
        elif set(line) <= set("|-: "):
            continue
        else:
            if not (changed and changed[-1].startswith("     -")):
                changed += ["", ".. list-table::", "   :header-rows: 1", ""]
            cells = [cell.strip() for cell in _BAR.split(line.strip("|"))]
            changed.append(f"   * - {cells[0]}")
            changed += [f"     - {cell}" for cell in cells[1:]]
    lines[:] = changed


def setup(app: Sphinx) -> None:
    """Register what changes the docstrings."""
    app.connect("autodoc-process-docstring", options_of)
    app.connect("autodoc-process-docstring", tables_of)
