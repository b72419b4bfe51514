"""Compare translating sentences of a document alone and several in one context: BLEU by window, K.

    python measure.py DATA RESULT

DATA has `dev.en-de.tsv.xz`: lines of document and place ("an1.16:1.1"), English and German between
tabs. The lines of one document follow each other. `bleu` is over lines, as `WindowTranslator` gives
them (windows that could not be cut were translated line by line); `document_bleu` is over whole
documents joined, without that second try. The windows of all sizes and the lines alone are timed in
turns, document by document.
"""

from __future__ import annotations

import argparse
import lzma
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from sacrebleu.metrics import BLEU

import multistride
from multistride.cpu import cpu_name
from multistride.decode.options import DecodeOptions
from multistride.files import sha256, write_json
from multistride.model.directory import WEIGHTS
from multistride.shipped import DEFAULT
from multistride.tasks.sentence_windows import WindowTranslator
from multistride.translator import Translator

Document = list[tuple[str, str]]


def documents(path: Path) -> list[Document]:
    """Pairs of lines, document by document."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [
        [(source, target) for _, source, target in group]
        for _, group in groupby(rows, key=lambda row: row[0].split(":")[0])
    ]


class Joined(WindowTranslator):
    """Windows whose texts are kept as they came, for the BLEU of documents."""

    def __init__(self, translator: Translator, sentences: int, separator: str) -> None:
        super().__init__(translator, sentences, separator)
        self.kept: list[str] = []

    def cut(self, text: str, window: Sequence[str]) -> list[str] | None:
        """The same, and the text is kept."""
        self.kept.append(text)
        return super().cut(text, window)


def measured(
    chosen: list[Document], ways: list[tuple[int, str, int]], translator: Translator
) -> list[dict[str, Any]]:
    """One row for each way: window, separator, K."""
    passages = [Joined(translator, window, separator) for window, separator, _ in ways]
    lines: list[list[str]] = [[] for _ in ways]
    whole: list[list[str]] = [[] for _ in ways]
    seconds = [0.0] * len(ways)
    for turn, document in enumerate(chosen):
        for place in range(len(ways)):
            index = (place + turn) % len(ways)
            own, began = passages[index], time.perf_counter()
            own.kept.clear()
            options = DecodeOptions(group_size=ways[index][2])
            results = own.translate_lines(
                (source.encode() for source, _ in document), own.planned(options)
            )
            lines[index] += [result.text for result in results]
            seconds[index] += time.perf_counter() - began
            whole[index].append(" ".join(own.kept))
    references = [target for document in chosen for _, target in document]
    joined = [" ".join(target for _, target in document) for document in chosen]
    return [
        {
            "window": window,
            "separator": separator,
            "group_size": size,
            "bleu": BLEU().corpus_score(lines[index], [references]).score,
            "document_bleu": BLEU().corpus_score(whole[index], [joined]).score,
            "windows": passages[index].counts.windows,
            "translated_line_by_line": passages[index].counts.apart,
            "lines_per_second": len(references) / seconds[index],
        }
        for index, (window, separator, size) in enumerate(ways)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--model", type=Path, default=DEFAULT)
    parser.add_argument("--documents", type=int, help="only the first so many")
    parser.add_argument("--windows", default="1,2,4,8")
    parser.add_argument("--group-sizes", default="1,4")
    parser.add_argument("--separator", default=" ")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    file = asked.data / "dev.en-de.tsv.xz"
    chosen = documents(file)[: asked.documents]
    sizes, windows = (
        list(map(int, text.split(","))) for text in (asked.group_sizes, asked.windows)
    )
    ways = [(window, asked.separator, size) for size in sizes for window in windows]
    metric = BLEU()
    results = measured(chosen, ways, multistride.load(asked.model, engine="eager"))
    metric.corpus_score(["x"], [["x"]])
    facts = {
        "name": "Consecutive sentences in one context",
        "source": file.name,
        "source_sha256": sha256(file),
        "documents": len(chosen),
        "lines": sum(map(len, chosen)),
        "model_sha256": sha256(asked.model / WEIGHTS),
        "bleu_signature": metric.get_signature().format(),
        "threads": 1,
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "multistride": multistride.__version__,
        "results": results,
    }
    write_json(asked.result, facts)
    print(
        "| window | K | BLEU | BLEU of documents | windows | line by line | lines/s "
        "|\n|--:|--:|--:|--:|--:|--:|--:|"
    )
    for row in results:
        print(
            f"| {row['window']} | {row['group_size']} | {row['bleu']:.1f} | "
            f"{row['document_bleu']:.1f} | "
            f"{row['windows']} | {row['translated_line_by_line']} | {row['lines_per_second']:.1f} |"
        )


if __name__ == "__main__":
    main()
