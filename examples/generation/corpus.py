"""Write a corpus for text generation as parallel text files: sources and targets, line by line.

    python corpus.py commongen|scitldr|dialogsum FOLDER DIRECTORY

FOLDER is that of the corpus: commongen has `train.tsv.xz`, `dev.tsv.xz` and `test.tsv.xz`, lines of
concepts and sentence between a tab; scitldr (abstract to one sentence) and dialogsum (dialogue to
summary) have `.jsonl.xz`.

`train.source` and `train.target` are for the teacher, `distill.source` is what it is to write
about. What is measured is a source with all its references, one JSON object a line, in
`validation.jsonl` and `test.jsonl`; the first of them is in `validation.target` too. The order of
concepts means nothing, so a training set of them is there twice, the second time shuffled.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SEED = 7

Found = dict[str, list[str]]
"""The references of each source, in the order of the file."""


def one_line(text: str) -> str:
    """Line ends and runs of blanks as one blank."""
    return " ".join(text.split())


def gathered(pairs: Iterable[tuple[str, str]]) -> Found:
    """All references of each source that has any text on both sides."""
    found: Found = {}
    for source, target in pairs:
        if source.strip() and target.strip():
            found.setdefault(one_line(source), []).append(one_line(target))
    return found


def commongen(path: Path) -> Iterator[tuple[str, str]]:
    """Concepts and a sentence."""
    with lzma.open(path.with_name(path.name + ".tsv.xz"), "rt", encoding="utf-8") as file:
        for line in file:
            concepts, sentence = line.rstrip("\n").split("\t")
            yield concepts, sentence


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file."""
    with lzma.open(path.with_name(path.name + ".jsonl.xz"), "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def scitldr(path: Path) -> Iterator[tuple[str, str]]:
    """An abstract and a sentence that says it all; the test set has several."""
    return (
        (" ".join(record["source"]), target)
        for record in records(path)
        for target in record["target"]
    )


def dialogsum(path: Path) -> Iterator[tuple[str, str]]:
    """A dialogue and its summary; the test set has three."""
    return (
        (record["dialogue"], text)
        for record in records(path)
        for name, text in record.items()
        if name.startswith("summary")
    )


CORPORA = {"commongen": commongen, "scitldr": scitldr, "dialogsum": dialogsum}


def shuffled(train: Found) -> Found:
    """The same sets of concepts, each in another order."""
    draws = random.Random(SEED)
    return {
        " ".join(draws.sample(words := source.split(), len(words))): own
        for source, own in train.items()
    }


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """One line each."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_measured(directory: Path, split: str, found: Found, with_concepts: bool) -> None:
    """Sources with all of their references as records, and with the first one as lines."""
    write_lines(directory / f"{split}.source", found)
    write_lines(directory / f"{split}.target", (own[0] for own in found.values()))
    lines = []
    for source, own in found.items():
        concepts = {"concepts": source.split()} if with_concepts else {}
        lines.append(
            json.dumps({"source": source, **concepts, "references": own}, ensure_ascii=False)
        )
    write_lines(directory / f"{split}.jsonl", lines)


def main(name: str, folder: Path, directory: Path) -> None:
    """Write everything into `directory`. Training sources that are measured too are left out."""
    directory.mkdir(parents=True, exist_ok=True)
    unordered = name == "commongen"
    train, validation, test = (
        gathered(CORPORA[name](folder / part)) for part in ("train", "dev", "test")
    )

    def keys(found: Found) -> set[str]:
        return {" ".join(sorted(source.split())) if unordered else source for source in found}

    for split, found in (("validation", validation), ("test", test)):
        held_out = keys(found)
        train = {source: own for source, own in train.items() if not keys({source: own}) & held_out}
        write_measured(directory, split, found, unordered)
    taught = [train, shuffled(train)] if unordered else [train]
    pairs = [(source, target) for each in taught for source, own in each.items() for target in own]
    write_lines(directory / "train.source", (source for source, _ in pairs))
    write_lines(directory / "train.target", (target for _, target in pairs))
    write_lines(directory / "distill.source", train)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(CORPORA), metavar="NAME")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    main(**vars(parser.parse_args()))
