"""Models that come with the package, each a model directory with its card, licence notices and
provenance.
"""

from __future__ import annotations

from pathlib import Path

DEFAULT = Path(__file__).parent / "english-german"
"""What runs where no model is named: English to German; `examples/english-german` makes it
again."""
