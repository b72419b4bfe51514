"""The command `multistride`, which `python -m multistride` is as well."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; a Ctrl-C while it is imported is one line, too."""
    try:
        from multistride.cli import main as command  # noqa: PLC0415  # Ctrl-C is heard first
    except KeyboardInterrupt:
        print("multistride: error: interrupted", file=sys.stderr)
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
