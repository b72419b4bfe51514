"""One style for every picture, and how one becomes text or a file.

Drawing needs matplotlib; the module imports without it.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
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
            "the picture needs matplotlib, which is not installed; install it with: pip install "
            "'multistride[report]'"
        )


@contextmanager
def drawing(width: float, height: float) -> Iterator[Any]:
    """Yield a figure of a size in inches, in the style of the project.

    Raises `MissingExtraError` without matplotlib.
    """
    check_drawing()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script DejaVu lacks costs a box in the picture, not a warning on the terminal.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # The SVG renderer measures text at 72 dots an inch: at another number labels would be
        # placed by boxes of the wrong size, and overlap.
        figure = Figure(figsize=(width, height), facecolor="white", dpi=72)
        FigureCanvasSVG(figure)
        yield figure


def svg_text(figure: Any) -> str:
    """Return a figure as one `<svg>`; the same figure always gives the same text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


PICTURES = (".svg", ".png")
_PNG_DPI = 100


def check_picture(destination: Path) -> None:
    """Raise `UsageError` for a picture of another kind, `MissingExtraError` without matplotlib."""
    if destination.suffix.lower() not in PICTURES:
        raise UsageError(
            f"the picture {destination} is neither .svg nor .png: give it one of these endings"
        )
    check_drawing()


def save(figure: Any, destination: Path) -> None:
    """Write a figure as .svg or .png, whole or not at all. Raises as `check_picture` does."""
    check_picture(destination)
    with replacing_file(destination) as temporary:
        if destination.suffix.lower() == ".svg":
            temporary.write_text(svg_text(figure), encoding="utf-8")
        else:
            figure.set_dpi(_PNG_DPI)
            FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})


def titled(figure: Any, title: str, name: str, caption: str = "", wide: int = 80) -> None:
    """Write a title, what is shown, and a caption of at most two lines of `wide` characters."""
    width = figure.get_size_inches()[0]
    shown = textwrap.shorten(name, 60 if width < 7 else 80, placeholder=" …")
    figure.text(0.02, 0.945, title, fontsize=14, weight="bold", va="center")
    figure.text(0.02, 0.885, shown, fontsize=10, color=FAINT, va="center")
    if caption:
        text = textwrap.fill(caption, wide, max_lines=2, placeholder=" …")
        figure.text(0.02, 0.015, text, fontsize=8, color=FAINT, va="bottom", linespacing=1.4)


# Where a label may stand, in points from its point; the first place that is free is taken.
_PLACES = (
    (-7, 7),
    (7, -16),
    (7, 7),
    (-7, -16),
    (0, 16),
    (0, -26),
    (-12, 24),
    (12, 24),
    (12, -34),
    (0, 34),
)


def settle(label: Any, taken: Sequence[Any], area: Any) -> Any:
    """Move a label to its first free place, or back to the first of all; return its box."""
    for place in (*_PLACES, _PLACES[0]):
        label.set_position(place)
        label.set_horizontalalignment(
            "left" if place[0] > 0 else "right" if place[0] < 0 else "center"
        )
        box = label.get_window_extent()
        inside = box.x0 >= area.x0 and box.x1 <= area.x1 and box.y0 >= area.y0
        if inside and not any(box.overlaps(other) for other in taken):
            break
    return box


def tidy(axes: Any) -> None:
    """Make axes faint, without a frame and tick marks."""
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(EDGE)
