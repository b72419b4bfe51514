"""How every picture looks, and how one becomes text or a file.

Drawing needs matplotlib; the module imports without it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multistride.errors import MissingExtraError, UsageError
from multistride.files import replacing_file

try:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
except ImportError:  # `drawing` says so
    matplotlib = None  # type: ignore[assignment]

# After Okabe and Ito, darker: told apart by colour-blind readers, and legible as text on white.
COLOURS = ("#0067A3", "#B34E00", "#007A5A", "#8F5A8A", "#5B5B5B")
INK = "#1f2933"
FAINT = "#6b7785"
GRID = "#e4e7eb"
EDGE = "#cbd2d9"

# Text as paths looks the same everywhere; the fixed salt makes equal results give equal files.
STYLE = {
    "svg.fonttype": "path",
    "svg.hashsalt": "multistride",
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "text.parse_math": False,
}


def check_drawing() -> None:
    """Raise `MissingExtraError` without matplotlib."""
    if matplotlib is None:
        raise MissingExtraError(
            "the picture needs matplotlib, which is not installed; install it with: pip install 'multistride[report]'"
        )


@contextmanager
def drawing(width: float, height: float) -> Iterator[Any]:
    """A figure of so many inches, in the style of the project. Raises `MissingExtraError` without
    matplotlib.
    """
    check_drawing()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script DejaVu lacks costs a box in the picture, not a warning on the terminal.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), facecolor="white")
        FigureCanvasSVG(figure)
        yield figure


def svg_text(figure: Any) -> str:
    """A figure as the text of one `<svg>`; the same figure always gives the same text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def save(figure: Any, destination: Path) -> None:
    """Write a figure as .svg or .png, whole or not at all. Raises `UsageError` for another
    ending.
    """
    kind = destination.suffix.lower()
    if kind not in (".svg", ".png"):
        raise UsageError(
            f"the picture {destination} is neither .svg nor .png: give it one of these endings"
        )
    with replacing_file(destination) as temporary:
        if kind == ".svg":
            temporary.write_text(svg_text(figure), encoding="utf-8")
        else:
            FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})


def tidy(axes: Any) -> None:
    """Faint axes, no frame, no tick marks."""
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(EDGE)
