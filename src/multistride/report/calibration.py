"""The table of a calibration: how far the model's confidence is off, place by place, before and
after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

HEADINGS = (
    "layout",
    "K",
    "place",
    "right %",
    "sure %",
    "off by %",
    "temp.",
    "shift",
    "then off by %",
    "tokens",
)


def calibration_table(calibration: Mapping[str, Any]) -> Table:
    """The places of a `calibration.json` for the terminal; what it is off by is the expected
    calibration error.
    """
    title = f"Judged by {'K=1 of the model' if calibration['truth'] == 'own-k1' else 'a reference'}"
    table = Table(
        title=Text(title),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in HEADINGS:
        table.add_column(Text(name), justify="left" if name == "layout" else "right")
    for row in calibration["places"]:
        shares = [f"{100 * row[name]:.1f}" for name in ("right", "confidence", "error_before")]
        after = [
            f"{row['temperature']:.2f}",
            f"{row['shift']:+.2f}",
            f"{100 * row['error_after']:.1f}",
            f"{row['tokens']:,}",
        ]
        table.add_row(row["layout"], str(row["group_size"]), str(row["place"]), *shares, *after)
    return table
