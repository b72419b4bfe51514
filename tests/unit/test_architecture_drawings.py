"""The masks drawn in docs/architecture.md are the ones the code makes."""

from pathlib import Path

import torch

from multistride.groups import Slots, equal_sizes, lookahead, teacher_forced, visibility

PAGE = Path(__file__).parents[2] / "docs/architecture.md"
START, MASK = 100, 101
TARGET, LENGTHS = torch.arange(6)[None], torch.tensor([6])


def drawn(slots: Slots) -> str:
    names = {START: "S", MASK: "M"}
    seen = visibility(slots.group, slots.group)[0].tolist()
    lines = ["reads predicts reach  sees"]
    for token, position, reach, row in zip(
        *(field[0].tolist() for field in slots[:3]), seen, strict=True
    ):
        marks = " ".join("■" if visible else "·" for visible in row)
        lines.append(f"{names.get(token, f'y{token}'):6}{f'y{position}':9}{reach:<7}{marks}")
    return "\n".join(lines)


def test_drawings_are_true():
    # Guards: documentation that shows another mask than the code uses.
    page = PAGE.read_text(encoding="utf-8")
    for group_size in (1, 3):
        assert (
            drawn(teacher_forced(TARGET, LENGTHS, equal_sizes(LENGTHS, group_size), START)[0])
            in page
        )
    assert drawn(lookahead(TARGET, LENGTHS, torch.tensor([3]), 3, START, MASK)[0]) in page
