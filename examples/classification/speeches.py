"""Write State of the Union addresses as records, labelled with their era, in folds.

    python speeches.py SPEECHES.jsonl.xz DIRECTORY FOLDS

DIRECTORY gets fold-N with train, validation and test.jsonl. Every speech is whole and in one test
split; one in ten of the others is for validation. Speeches are dealt out in order of their years,
so every fold has all eras, and most presidents stand on both sides of a split: this is about eras,
not about speakers that nobody has heard.
"""

import argparse
import json
import lzma
import sys
from pathlib import Path
from typing import Any

ERAS = (
    (1829, "1790-1829"),
    (1869, "1830-1869"),
    (1909, "1870-1909"),
    (1949, "1910-1949"),
    (1989, "1950-1989"),
)
LAST = "1990-"


def era(year: int) -> str:
    """Forty years that have a name."""
    return next((name for end, name in ERAS if year <= end), LAST)


def write(path: Path, chosen: list[dict[str, Any]]) -> None:
    """Write records, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in chosen),
        encoding="utf-8",
    )
    print(f"{path}: {len(chosen)} records", file=sys.stderr)


def main(source: Path, directory: Path, folds: int) -> None:
    with lzma.open(source, "rt", encoding="utf-8") as lines:
        speeches = sorted(
            (json.loads(line) for line in lines), key=lambda each: (each["year"], each["id"])
        )
    records = [
        {"text": each["text"], "label": era(each["year"]), "id": each["id"]} for each in speeches
    ]
    for fold in range(folds):
        place = directory / f"fold-{fold + 1}"
        others = [record for number, record in enumerate(records) if number % folds != fold]
        write(place / "test.jsonl", records[fold::folds])
        write(place / "validation.jsonl", others[::10])
        write(
            place / "train.jsonl", [record for number, record in enumerate(others) if number % 10]
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="SPEECHES")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument("folds", type=int, metavar="FOLDS")
    main(**vars(parser.parse_args()))
