"""Measure the quality and the exactness of int8: BLEU by engine and K, and identical sentences.

    OMP_NUM_THREADS=1 python benchmarks/quality.py SOURCE REFERENCE [--model DIR] [--sentences 500]

Sentences are taken evenly over the file. For every K:

- BLEU of int8 beside float32;
- the share of sentences that int8 writes alike one at a time and in batches of 32;
- the share that exact mode writes as greedy K=1 does, by int8, one at a time and in batches.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from multistride.decode.corpus import decode_corpus
from multistride.decode.options import DecodeOptions
from multistride.metrics.quality import measure_quality
from multistride.translator import Translator


def written(translator: Translator, sources: list[list[int]], **choices: object) -> list[list[int]]:
    options = DecodeOptions.made(**choices)
    return [each.tokens for each in decode_corpus(translator.engine, sources, options)]


def same(one: list[list[int]], other: list[list[int]]) -> float:
    return sum(left == right for left, right in zip(one, other, strict=True)) / len(one)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--sentences", type=int, default=500)
    parser.add_argument("--engine", nargs="+", default=["eager", "int8"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sources = arguments.source.read_text(encoding="utf-8").splitlines()
    references = arguments.reference.read_text(encoding="utf-8").splitlines()
    step = max(len(sources) // arguments.sentences, 1)
    sources, references = sources[::step], references[::step]
    for name in arguments.engine:
        translator = Translator.load(arguments.model, "cpu", name)
        tokens = translator.vocabulary.encode_source(sources)
        alone = written(translator, tokens)
        for size in translator.config.group_sizes:
            batched = written(translator, tokens, group_size=size)
            single = written(translator, tokens, group_size=size, batch_size=1)
            quality = measure_quality(translator.vocabulary.decode_all(batched), references)
            row = {
                "engine": name,
                "K": size,
                "sentences": len(sources),
                "bleu": round(quality.bleu, 2),
            }
            row["batch = single"] = round(same(batched, single), 4)
            if size > 1:
                exact = {
                    batch: written(
                        translator, tokens, group_size=size, mode="exact", batch_size=batch
                    )
                    for batch in (1, 32)
                }
                row |= {
                    f"exact = K1, batch {batch}": round(same(found, alone), 4)
                    for batch, found in exact.items()
                }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
