"""Compare ways to close the gap at K > 1 on long sentences, in a fixed and small budget.

    python long_sentences.py SUTTACENTRAL DIRECTORY [--updates 160] [--output FILE]

The model that ships is trained for a few more updates on sentences of 15 to 40 words, in several
ways and with two seeds. Validation loss and BLEU by K on other sentences of this length show which
way helps. Every run is one `multistride train`. Finished runs are not repeated; the result holds
the runs that have ended.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from multistride.files import write_json
from multistride.shipped import DEFAULT

USUAL = {"sizes": "{1: 0.2, 2: 0.15, 4: 0.3, 6: 0.1, 8: 0.25}", "partial_groups": "0.1"}
USUAL |= {"lookahead": "0.2", "markov_rank": "64"}
USUALLY = "usual mixture"
WAYS: dict[str, dict[str, str]] = {
    USUALLY: {},
    "more of large K": {"sizes": "{1: 0.1, 2: 0.05, 4: 0.3, 6: 0.1, 8: 0.45}"},
    "own K=1 text": {},
    "whole groups only": {"partial_groups": "0.0", "lookahead": "0.0"},
    "glancing": {"glancing": "0.3"},
    "longest sentences": {},
}
"""Ways of training by what differs from the usual groups; three differ in their text."""

SEEDS = (1, 2)


def pairs(path: Path, shortest: int, longest: int) -> list[tuple[str, str]]:
    """Return the pairs whose source has so many words."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        columns = [line.rstrip("\n").split("\t") for line in lines]
    return [(row[1], row[2]) for row in columns if shortest <= len(row[1].split()) <= longest]


def multistride(*arguments: str, stdin: str = "") -> str:
    """Run a command and return what it prints."""
    command = [sys.executable, "-m", "multistride", *arguments]
    print("$", " ".join(command[2:]), file=sys.stderr)
    done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout


def prepared(
    directory: Path, train: list[tuple[str, str]], held_out: list[tuple[str, str]]
) -> Path:
    """Return the prepared data of some pairs."""
    if (directory / "prepare.json").is_file():
        return directory
    text = directory.parent / f"{directory.name}-text"
    text.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("validation", held_out)):
        lines = "".join(f"{source}\t{target}\n" for source, target in rows)
        (text / f"{name}.tsv").write_text(lines, encoding="utf-8")
    command = ["prepare", "--output", str(directory), "--vocabulary", str(DEFAULT)]
    for split in ("train", "validation"):
        command += [f"--{split}-pairs", str(text / f"{split}.tsv")]
    multistride(*command)
    return directory


def text_of(asked: argparse.Namespace, way: str) -> Path:
    """Return the prepared data of a way."""
    held_out = pairs(asked.suttacentral / "dev.en-de.tsv.xz", 15, 40)[:150]
    known = {source for source, _ in held_out}
    every = pairs(asked.suttacentral / "train.en-de.tsv.xz", 15, 40)
    train = [pair for pair in every if pair[0] not in known]
    random.Random(0).shuffle(train)
    if way == "longest sentences":
        longest = [pair for pair in train if len(pair[0].split()) >= 25]
        return prepared(asked.directory / "longest", longest[: asked.pairs], held_out)
    train = train[: asked.pairs]
    if way != "own K=1 text":
        return prepared(asked.directory / "text", train, held_out)
    own = asked.directory / "own.txt"
    if not own.is_file():
        sources = "".join(f"{source}\n" for source, _ in train)
        own.write_text(multistride("translate", "--group-size", "1", stdin=sources), "utf-8")
    written = own.read_text(encoding="utf-8").splitlines()
    sides = zip((source for source, _ in train), written, strict=True)
    return prepared(asked.directory / "own", list(sides), held_out)


def losses(asked: argparse.Namespace, way: str, seed: int, data: Path) -> dict[str, float]:
    """Return validation loss and BLEU by K after one run."""
    run = asked.directory / f"{way.replace(' ', '-').replace('=', '')}-{seed}"
    updates = asked.updates
    groups = {f"groups.{name}": value for name, value in {**USUAL, **WAYS[way]}.items()}
    training = {
        "updates": str(updates), "tokens_per_batch": "1024", "learning_rate": "3.0e-4",
        "warmup_updates": "10", "schedule": "cosine", "validate_every": str(updates),
        "validate_sentences": "0", "seed": str(seed), "keep_checkpoints": "1",
    }  # fmt: skip
    settings = {"data": data, "run": run, "start_from": DEFAULT, **groups}
    settings |= {f"training.{name}": value for name, value in training.items()}
    config = asked.directory / "empty.yaml"
    config.write_text(f"data: {data}\nrun: {run}\n", encoding="utf-8")
    if not (run / "best").exists():
        choices = [
            part for name, value in settings.items() for part in ("--set", f"{name}={value}")
        ]
        multistride("train", str(config), "--resume", "--threads", "1", *choices)
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last: dict[str, Any] = [r for r in map(json.loads, lines) if r["kind"] == "validation"][-1]
    found = {name: value for name, value in last.items() if isinstance(value, float)}
    return {**found, **bleu(asked.directory, run, run / "best")}


def bleu(directory: Path, run: Path, model: Path) -> dict[str, float]:
    """Return BLEU by K of what a model writes for the held-out sentences."""
    held_out = directory / "text-text" / "validation.tsv"
    result = run / "evaluated.json"
    if not result.is_file():
        sides = zip(
            *(line.split("\t") for line in held_out.read_text("utf-8").splitlines()), strict=True
        )
        for name, side in zip(("source", "reference"), sides, strict=True):
            (run / name).write_text("".join(f"{text}\n" for text in side), encoding="utf-8")
        multistride(
            *("evaluate", "--model", str(model), "--engine", "eager", "--examples", "0"),
            *("--source", str(run / "source"), "--reference", str(run / "reference")),
            *("--group-size", "1,2,4,8", "--threads", "1", "--latency-sentences", "1"),
            *("--output", str(result)),
        )
    rows = json.loads(result.read_text(encoding="utf-8"))["results"]
    return {f"bleu_k{row['group_size']}": row["bleu"] for row in rows}


def main() -> None:
    """Run all ways with both seeds, and record each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suttacentral", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--updates", type=int, default=160)
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--output", type=Path, default=Path("results/long-sentences.json"))
    asked = parser.parse_args()
    about = {"updates": asked.updates, "tokens_per_batch": 1024, "pairs": asked.pairs}
    about |= {"groups": USUAL, "ways": WAYS}
    rows: list[dict[str, Any]] = []

    def record(name: str, metrics: dict[str, float]) -> None:
        rows.append({"name": name, "metrics": metrics})
        title = "Ways to close the gap at K > 1 on long sentences"
        write_json(
            asked.output, {"name": title, "kind": "other", "settings": about, "results": rows}
        )

    text_of(asked, USUALLY)
    untrained = asked.directory / "untrained"
    untrained.mkdir(exist_ok=True)
    record("no more training", bleu(asked.directory, untrained, DEFAULT))
    for way in WAYS:
        data = text_of(asked, way)
        for seed in SEEDS:
            record(f"{way}, seed {seed}", losses(asked, way, seed, data))


if __name__ == "__main__":
    main()
