"""Choose a part of the distilled text, rich in short sentences, for training that must be quick.

    python part.py DATA SOURCE TARGET DIRECTORY

SOURCE and TARGET are lines of the training text and their translations by the teacher. Equal pairs
are kept once; of each corpus in DATA a share is kept, of long help text the least. Written are
`train.en` and `train.de`, shuffled.
"""

from __future__ import annotations

import lzma
import random
import sys
from pathlib import Path

CORPORA = {
    "tatoeba": (("tatoeba/train.en-de.tsv.xz",), 0, 1.0),
    "suttacentral": (("suttacentral/train.en-de.tsv.xz",), 1, 0.45),
    "interfaces": (("permissive-ui-strings/train.en-de.tsv.xz",), 1, 0.8),
    "libreoffice": (("libreoffice/ui.en-de.tsv.xz", "libreoffice/help.en-de.tsv.xz"), 0, 0.35),
}
"""Files, the column of the English text, the share that is kept."""

MADE = 0.45
"""The share of lines that `corpus.py` made of others."""

LONG_WORDS, LONG_SHARE = 12, 0.1
"""Of LibreOffice's longer lines this share is kept."""


def sources(data: Path) -> dict[str, tuple[str, float]]:
    """Return the corpus of each English line and the share kept of it; the first corpus counts."""
    known: dict[str, tuple[str, float]] = {}
    for name, (files, column, share) in CORPORA.items():
        for file in files:
            with lzma.open(data / file, "rt", encoding="utf-8") as lines:
                for line in lines:
                    source = line.rstrip("\n").split("\t")[column]
                    known.setdefault(source, (name, share))
    return known


def main(data: Path, source: Path, target: Path, directory: Path) -> None:
    """Write the chosen part into `directory`."""
    known = sources(data)
    generator = random.Random(7)
    texts = (path.read_text(encoding="utf-8").split("\n")[:-1] for path in (source, target))
    pairs = dict.fromkeys(zip(*texts, strict=True))
    chosen = []
    for pair in pairs:
        if not pair[1].strip():
            continue
        name, share = known.get(pair[0].strip(), ("made", MADE))
        if name == "libreoffice" and len(pair[0].split()) > LONG_WORDS:
            share = LONG_SHARE
        if generator.random() < share:
            chosen.append(pair)
    generator.shuffle(chosen)
    directory.mkdir(parents=True, exist_ok=True)
    for side, language in enumerate(("en", "de")):
        text = "".join(f"{pair[side]}\n" for pair in chosen)
        (directory / f"train.{language}").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
