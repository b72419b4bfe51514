"""Models that come with the package, each a model directory with its card, licence notices and
provenance.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent

DEFAULT = _HERE / "english-german"
"""What runs where no model is named: English to German; `examples/english-german` makes it
again."""


def names() -> list[str]:
    """Return the names of the models that ship, sorted."""
    return sorted(path.parent.name for path in _HERE.glob("*/config.json"))


def find(name: str) -> Path | None:
    """Return the directory of the shipped model called `name`; None if there is none."""
    return _HERE / name if name in names() else None
