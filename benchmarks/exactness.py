"""Exact mode against greedy K=1 of the same weights: token by token, for several group sizes and
batch sizes.

    python benchmarks/exactness.py MODEL OUTPUT.json TEXT [TEXT ...] [--group-size 2,4,8] [--batch-size 1,32]

K=1 is decoded one sentence at a time. Where a sentence differs, the margin between the two tokens
at the first difference is computed by a parallel pass over what K=1 wrote: a flip by rounding shows
as a margin near zero.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from multistride.data.corpus import read_lines
from multistride.decode.corpus import decode_corpus, source_batch
from multistride.decode.options import DecodeOptions
from multistride.decode.state import Hypothesis
from multistride.device import cpu_name
from multistride.files import sha256, write_json
from multistride.groups import equal_sizes, teacher_forced
from multistride.model.weights import WEIGHTS
from multistride.translator import Translator
from multistride.version import __version__


def margin(
    translator: Translator, source: list[int], written: Hypothesis, other: Hypothesis
) -> float:
    """How much more the model likes what K=1 wrote at the first difference than what the other
    wrote (logits).
    """
    model, end = translator.engine.model, translator.config.end_token
    ours, theirs = ([*each.tokens, end] for each in (written, other))
    place = next(
        index for index, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]
    )
    known = torch.tensor([ours])
    lengths = torch.tensor([len(ours)])
    slots, _ = teacher_forced(
        known, lengths, equal_sizes(lengths, 1), translator.config.start_token
    )
    with torch.inference_mode():
        logits = model.project(model(*source_batch([source], translator.config), slots))[0, place]
    return float(logits[ours[place]] - logits[theirs[place]])


def compare(
    translator: Translator,
    sources: list[list[int]],
    plain: list[Hypothesis],
    group_size: int,
    batch_size: int,
) -> dict[str, Any]:
    """One row: how many sentences are the same, how many passes they took, and the margins where
    they are not.
    """
    options = DecodeOptions.made(group_size=group_size, mode="exact", batch_size=batch_size)
    exact = decode_corpus(translator.engine, sources, options)
    pairs = list(zip(sources, plain, exact, strict=True))
    differing = [(source, one, other) for source, one, other in pairs if one.tokens != other.tokens]
    written = sum(len(hypothesis.log_probabilities) for hypothesis in exact)
    return {
        "group_size": group_size,
        "batch_size": batch_size,
        "sentences": len(sources),
        "identical": len(sources) - len(differing),
        "tokens_per_pass": written / sum(hypothesis.steps for hypothesis in exact),
        "margins_where_different": [margin(translator, *each) for each in differing],
    }


def tokens_of(translator: Translator, path: Path) -> list[list[int]]:
    """The token ids of every line that can be decoded."""
    texts = [line.decode("utf-8").strip() for line in read_lines(path)]
    encoded = translator.vocabulary.encode([text for text in texts if text])
    return [tokens for tokens in encoded if translator.problem(tokens) is None]


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
    translator = Translator.load(chosen.model, engine=chosen.engine, report=print)
    files = []
    for path in chosen.texts:
        sources = tokens_of(translator, path)
        plain = decode_corpus(translator.engine, sources, DecodeOptions.made(batch_size=1))
        rows = []
        for batch_size in map(int, chosen.batch_size.split(",")):
            for group_size in map(int, chosen.group_size.split(",")):
                rows.append(compare(translator, sources, plain, group_size, batch_size))
                print(path.name, rows[-1], flush=True)
        files.append({"source": str(path), "source_sha256": sha256(path), "rows": rows})
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
    write_json(
        chosen.output,
        {"name": "exact mode against greedy K=1", "settings": settings, "files": files},
    )


if __name__ == "__main__":
    main()
