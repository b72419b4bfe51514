"""Refill the tables of a page from the result files that the page names.

    python benchmarks/tables.py [PAGE]

PAGE is docs/speed.md unless named. `docs/tools/pages.py` refills every page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from multistride.files import replacing_file
from multistride.report.marks import filled

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Rewrite the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "page", type=Path, nargs="?", default=ROOT / "docs/speed.md", metavar="PAGE"
    )
    page = parser.parse_args().page
    text = filled(page.read_text(encoding="utf-8"), ROOT)
    with replacing_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"written: {page}", file=sys.stderr)


if __name__ == "__main__":
    main()
