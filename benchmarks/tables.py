"""Make the tables of docs/speed.md anew from the result files that they name.

python benchmarks/tables.py [PAGE]
"""

from __future__ import annotations

import sys
from pathlib import Path

from multistride.files import replacing_file
from multistride.report.marks import filled

ROOT = Path(__file__).parents[1]


def main() -> None:
    """The command."""
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/speed.md"
    text = filled(page.read_text(encoding="utf-8"), ROOT)
    with replacing_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"written: {page}", file=sys.stderr)


if __name__ == "__main__":
    main()
