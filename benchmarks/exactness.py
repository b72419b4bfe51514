"""Compare exact mode with greedy K=1 of the same weights, token by token.

    python benchmarks/exactness.py MODEL OUTPUT.json TEXT [TEXT ...] [--engine int8]

K=1 decoded one sentence at a time is the reference. It is compared with exact mode for several
group and batch sizes, and with K=1 in batches. Where a sentence differs, the result holds the
sentence, and the margin between the two tokens at the first difference, from a parallel pass of the
float32 weights over what K=1 wrote: a flip by rounding shows as a margin near zero.

The texts are decoded in parts. Every part that is finished is kept beside OUTPUT in
`OUTPUT.parts.jsonl` until all are; the same command resumes there after it was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from multistride.cpu import cpu_name
from multistride.data.corpus import read_lines
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.hypothesis import Hypothesis
from multistride.decode.options import DecodeOptions
from multistride.files import sha256, write_json
from multistride.groups import equal_sizes, teacher_forced
from multistride.model.directory import WEIGHTS
from multistride.translator import Translator
from multistride.version import __version__

PART = 500
"""Sentences that are decoded, compared and recorded together."""

Way = tuple[int, int]
"""Group size and batch size; group size 1 is greedy K=1, larger ones are exact mode."""

Counts = dict[str, Any]


def margin(
    translator: Translator, source: list[int], plain: Hypothesis, other: Hypothesis
) -> float:
    """Return by how much the first differing token of K=1 is above the other one (logits)."""
    model, end = translator.engine.model, translator.config.end_token
    ours, theirs = ([*each.tokens, end] for each in (plain, other))
    index = next(
        index for index, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]
    )
    known = torch.tensor([ours])
    lengths = torch.tensor([len(ours)])
    slots, _ = teacher_forced(
        known, lengths, equal_sizes(lengths, 1), translator.config.start_token
    )
    with torch.inference_mode():
        logits = model.project(model(*source_batch([source], translator.config), slots))[0, index]
    return float(logits[ours[index]] - logits[theirs[index]])


def compare(
    translator: Translator, sources: list[list[int]], plain: list[Hypothesis], way: Way
) -> Counts:
    """Decode one part in one way, and count what is identical to `plain`."""
    group_size, batch_size = way
    mode = "exact" if group_size > 1 else "fast"
    options = DecodeOptions.made(group_size=group_size, mode=mode, batch_size=batch_size)
    others = decode_corpus(translator.engine, sources, options)
    pairs = list(zip(sources, plain, others, strict=True))
    differing = [each for each in pairs if each[1].tokens != each[2].tokens]
    return {
        "sentences": len(sources),
        "identical": len(sources) - len(differing),
        "identical_scores": sum(
            one.log_probabilities == other.log_probabilities for _, one, other in pairs
        ),
        "tokens": sum(len(other.log_probabilities) for other in others),
        "passes": sum(other.steps for other in others),
        "different": [
            {
                "source": translator.vocabulary.decode(source),
                "margin": margin(translator, source, one, other),
            }
            for source, one, other in differing
        ],
    }


def tokens_of(translator: Translator, path: Path) -> list[list[int]]:
    """Return the token ids of every line that can be decoded."""
    texts = [line.decode("utf-8").strip() for line in read_lines(path)]
    encoded = translator.vocabulary.encode_source([text for text in texts if text])
    return [tokens for tokens in encoded if translator.problem(tokens) is None]


def recorded(path: Path, settings: dict[str, Any]) -> dict[str, Counts]:
    """Return the parts of an earlier run with the same settings; start the file anew otherwise."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if not lines or json.loads(lines[0]) != settings:
        path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
        return {}
    whole = [line for line in lines[1:] if line.endswith("}")]  # the last may have been cut off
    return {part["part"]: part["rows"] for part in map(json.loads, whole)}


def parts(
    translator: Translator, sources: list[list[int]], ways: list[Way], name: str, done: Counts
) -> Iterator[tuple[str, Counts]]:
    """Yield the name of every part of a text and its counts by way; `done` are not decoded."""
    for first in range(0, len(sources), PART):
        part, key = sources[first : first + PART], f"{name}:{first}"
        if key not in done:
            plain = decode_corpus(translator.engine, part, DecodeOptions.made(batch_size=1))
            done[key] = {json.dumps(way): compare(translator, part, plain, way) for way in ways}
        yield key, done[key]


def total(counts: list[Counts], way: Way) -> Counts:
    """Return one row of the result: the counts of all parts together."""

    def summed(name: str) -> int:
        return sum(each[name] for each in counts)

    different = [each for one in counts for each in one["different"]]
    return {
        "mode": "exact" if way[0] > 1 else "fast",
        "group_size": way[0],
        "batch_size": way[1],
        "sentences": summed("sentences"),
        "identical": summed("identical"),
        "identical_scores": summed("identical_scores"),
        "tokens_per_pass": summed("tokens") / summed("passes"),
        "margins_where_different": [each["margin"] for each in different],
        "different": [each["source"] for each in different],
    }


def main() -> None:
    """Compare and write the result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--group-size", default="2,4,8")
    parser.add_argument("--batch-size", default="1,32")
    parser.add_argument("--engine", default="eager")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    translator = Translator.load(chosen.model, engine=chosen.engine)
    batches = [int(size) for size in chosen.batch_size.split(",")]
    ways = [(int(size), batch) for batch in batches for size in chosen.group_size.split(",")]
    ways = [(1, batch) for batch in batches if batch > 1] + ways
    settings = {
        "model": str(chosen.model),
        "model_sha256": sha256(chosen.model / WEIGHTS),
        "engine": translator.engine.name,
        "precision": translator.engine.precision,
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "multistride": __version__,
        "plain": "greedy K=1, batch 1",
    }
    hashes = {str(path): sha256(path) for path in chosen.texts}
    journal = Path(f"{chosen.output}.parts.jsonl")
    done = recorded(journal, {**settings, "ways": [list(way) for way in ways], "texts": hashes})
    files = []
    for path in chosen.texts:
        sources, counts = tokens_of(translator, path), []
        before = set(done)
        with journal.open("a", encoding="utf-8") as written:
            for name, rows in parts(translator, sources, ways, path.name, done):
                if name not in before:
                    written.write(json.dumps({"part": name, "rows": rows}) + "\n")
                    written.flush()
                counts.append(rows)
                same = {way: f"{row['identical']}/{row['sentences']}" for way, row in rows.items()}
                print(name, same, flush=True)
        totals = [total([part[json.dumps(way)] for part in counts], way) for way in ways]
        files.append({"source": str(path), "source_sha256": hashes[str(path)], "rows": totals})
    write_json(
        chosen.output,
        {"name": "exact mode against greedy K=1", "settings": settings, "files": files},
    )
    journal.unlink()


if __name__ == "__main__":
    main()
