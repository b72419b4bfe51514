"""Time each engine against CTranslate2 int8 with the same random weights, at a forced length.

    OMP_NUM_THREADS=1 python benchmarks/forced.py base --batch-size 1 8 32 --engine int8

Every sentence has 31 source tokens and EOS, and 32 tokens are written, so all engines do the same
work. They take turns. The figure is the median processor time, which other work on the machine
disturbs less than wall-clock time; on one thread of an idle machine they are equal. For real text
use `multistride bench`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from multistride.baselines.ctranslate2 import CTranslate2Engine
from multistride.decode.choosing.policy import fixed
from multistride.decode.ending import EndingRule
from multistride.decode.loop import GroupWriter, decode
from multistride.decode.state import DecodeState
from multistride.engines.interface import Engine
from multistride.engines.names import EngineName
from multistride.engines.open import open_engine
from multistride.model.config import TransformerConfig
from multistride.model.transformer import Transformer

LENGTH = 32
GROUP_SIZES = (1, 2, 4, 8)
BASE = {
    "vocabulary_size": 32000,
    "hidden_size": 512,
    "feedforward_size": 2048,
    "heads": 8,
    "tie_embeddings": False,
}
SMALL = {"vocabulary_size": 8000, "hidden_size": 256, "feedforward_size": 1024, "heads": 4}
SHAPES = {
    "base": {**BASE, "encoder_layers": 6, "decoder_layers": 6},
    "small": {**SMALL, "encoder_layers": 3, "decoder_layers": 3},
    "base 12-1": {**BASE, "encoder_layers": 12, "decoder_layers": 1},
    "small 6-1": {**SMALL, "encoder_layers": 6, "decoder_layers": 1},
    "base, vocabulary of 8,000": {
        **BASE,
        "vocabulary_size": 8000,
        "encoder_layers": 6,
        "decoder_layers": 6,
    },
}


def ours(engine: Engine[Any], source: torch.Tensor, group_size: int) -> None:
    """Return a translator of ours that writes LENGTH tokens a sentence; no token is EOS."""
    rows = len(source)
    state = DecodeState([LENGTH] * rows, start_token=1, rule=EndingRule.at(-1))
    writer = GroupWriter(engine, fixed(group_size))
    for _ in decode(engine, source, torch.full((rows,), LENGTH), state, writer):
        pass
    assert all(len(each.tokens) == LENGTH for each in state.hypotheses)


def theirs(engine: CTranslate2Engine, source: torch.Tensor) -> None:
    """Return CTranslate2 doing the same; it takes pieces and adds no EOS."""
    batch = [[str(token) for token in row] for row in source.tolist()]
    lengths = {"min_decoding_length": LENGTH, "max_decoding_length": LENGTH, "max_input_length": 0}
    found = engine._translator.translate_batch(batch, beam_size=1, return_scores=True, **lengths)
    assert all(len(each.hypotheses[0]) == LENGTH for each in found)


def measure(
    shape: str, batch_size: int, names: list[EngineName], seconds: float
) -> dict[str, float]:
    """Return milliseconds of processor time per sentence."""
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(**SHAPES[shape], group_sizes=GROUP_SIZES)).eval()
    source = torch.randint(5, SHAPES[shape]["vocabulary_size"], (batch_size, LENGTH))
    source[:, -1] = model.config.end_token
    reference = CTranslate2Engine(model)
    ways: dict[str, Callable[[], None]] = {"ctranslate2 int8": lambda: theirs(reference, source)}
    for name in names:
        engine = open_engine(model, name)
        for size in GROUP_SIZES:
            ways[f"{name} K={size}"] = partial(ours, engine, source, size)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for run in ways.values():
        run()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times["ctranslate2 int8"]) < 3:
        for way, run in ways.items():
            began = time.process_time()
            run()
            times[way].append(1000 * (time.process_time() - began) / batch_size)
    return {way: round(float(np.median(each)), 2) for way, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", nargs="+", choices=list(SHAPES))
    parser.add_argument("--batch-size", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--engine", nargs="+", default=["int8"])
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for shape in arguments.shapes:
        for batch_size in arguments.batch_size:
            found = measure(shape, batch_size, arguments.engine, arguments.seconds)
            bar = found["ctranslate2 int8"]
            ratios = {way: round(bar / each, 2) for way, each in found.items()}
            print(
                json.dumps(
                    {"shape": shape, "batch": batch_size, "milliseconds": found, "times": ratios}
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
