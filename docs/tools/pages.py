"""Refill everything in the pages that is generated: tables of results, and the references.

    python docs/tools/pages.py          rewrite the pages
    python docs/tools/pages.py --check  exit with 1 if a page is out of date

A table stands between `<!-- table FILE -->` (or another mark of `multistride.report`) and `<!-- end
-->`. `<!-- columns FILE: HEADING, HEADING -->` takes some columns of such a table, without what
stands in brackets; its two heading lines are the page's own, in the language of the page.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from multistride.files import replacing_file
from multistride.report.marks import filled

sys.path.insert(0, str(Path(__file__).parent))
import command_line
import http_api

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "README.zh.md", "docs/results.md", "docs/speed.md")

_COLUMNS = re.compile(
    r"(<!-- columns (\S+): (.+?) -->\n(?:\|.*\n){2})((?:\|.*\n)*)(<!-- end -->)",
)


def refilled(page: str) -> str:
    """Return `page` with every marked table made again from its result file."""
    return _COLUMNS.sub(_columns, filled(page, ROOT))


def _columns(mark: re.Match[str]) -> str:
    begin, path, wanted, _, end = mark.groups()
    lines = filled(f"<!-- table {path} -->\n<!-- end -->", ROOT).splitlines()
    headings, _, *rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if line.startswith("|")
    ]
    indices = [headings.index(heading) for heading in wanted.split(", ")]
    body = [" | ".join(row[index].partition(" (")[0] for index in indices) for row in rows]
    return begin + "".join(f"| {cells} |\n" for cells in body) + end


def pages() -> dict[Path, str]:
    """Return every page that holds something generated, with the text that it should have."""
    tables = {ROOT / name: refilled((ROOT / name).read_text(encoding="utf-8")) for name in PAGES}
    return {
        **tables,
        ROOT / "docs/cli.md": command_line.reference(),
        ROOT / "docs/api.md": http_api.reference(),
    }


def main() -> None:
    """Rewrite the pages that are out of date, or only name them."""
    old = {
        path: text
        for path, text in pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    check = "--check" in sys.argv[1:]
    for path, text in old.items():
        print(f"{'out of date' if check else 'written'}: {path}", file=sys.stderr)
        if not check:
            with replacing_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    sys.exit(bool(old) and check)


if __name__ == "__main__":
    main()
