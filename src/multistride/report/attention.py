"""The picture of one sentence: which source tokens each target token looked at, group by group."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, islice
from typing import Any

from multistride.data.pieces import group_texts
from multistride.report.cells import Cells
from multistride.report.drawing import FAINT, INK, tidy


def draw_attention(figure: Any, facts: Mapping[str, Any]) -> None:
    """Draw what `evaluate.sentence.look_into` found: source across, target down.

    A line marks the end of a step; at the right is how probable each token was for the model.
    """
    columns, rows = facts["source_pieces"], [piece for group in facts["groups"] for piece in group]
    width, height = figure.get_size_inches()
    left, right, top, bottom = 1.5 / width, 0.75 / width, 1.55 / height, 0.35 / height
    axes = figure.add_axes((left, bottom, 1 - left - right, 1 - top - bottom))
    figure.text(
        0.02, 1 - 0.25 / height, "Where each step looked", fontsize=14, weight="bold", va="center"
    )
    caption = (
        f"K={facts['group_size']}: a line ends a step; mean attention over all layers and heads"
    )
    figure.text(0.02, 1 - 0.52 / height, caption, fontsize=9, color=FAINT, va="center")
    axes.imshow(facts["attention"], cmap="Blues", vmin=0, aspect="auto")
    axes.set_xticks(
        range(len(columns)),
        [readable(piece) for piece in columns],
        rotation=45,
        ha="left",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(rows)), [readable(piece) for piece in rows])
    axes.xaxis.tick_top()
    tidy(axes)
    axes.tick_params(colors=INK)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    for border in list(accumulate(len(group) for group in facts["groups"]))[:-1]:
        axes.axhline(border - 0.5, color=INK, linewidth=1.4)
    for row, probability in enumerate(facts["probabilities"]):
        axes.text(
            len(columns) - 0.35,
            row,
            f"{100 * probability:.0f} %",
            fontsize=9,
            color=FAINT,
            va="center",
        )


def attention_size(facts: Mapping[str, Any]) -> tuple[float, float]:
    """Return the inches that fit the sentence."""
    rows = sum(len(group) for group in facts["groups"])
    return max(4.6, 2.25 + 0.42 * len(facts["source_pieces"])), 1.9 + 0.27 * rows


def sentence_table(facts: Mapping[str, Any]) -> Cells:
    """Return one row a step: what it wrote, how probable that was, where its tokens looked most."""
    attention = iter(facts["attention"])
    texts = group_texts(facts["groups"])
    steps = zip(facts["groups"], texts, facts["confidence"], strict=True)
    rows = []
    for step, (group, text, sure) in enumerate(steps):
        looked = [
            facts["source_pieces"][row.index(max(row))].strip()
            for row in islice(attention, len(group))
        ]
        rows.append([str(step), text, f"{100 * sure:.0f}", " ".join(looked)])
    return Cells(
        ["step", "wrote", "confidence %", "looked most at"], [True, False, True, False], rows
    )


def readable(piece: str) -> str:
    """Return a piece with the mark of a word's start shown as a visible blank."""
    return "␣" + piece[1:] if piece[:1] in (" ", "▁", "Ġ") and len(piece) > 1 else piece
