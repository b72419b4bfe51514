"""Measure memory and time by length, 512 to 32,768 tokens: long sources, long causal prompts.

    python examples/long_texts.py RESULT [--model DIRECTORY] [--lengths 512,2048,...]

A source of so many tokens is read and 64 tokens are written about it at several K: whole, and by
windows as long as the model's context, of which each writes its share. What a step costs does not
depend on what the weights say: they are those of a model with a short context whose table of
positions is made longer, the texts mean nothing, and none ends before its limit. A causal model of
the same sizes reads a prompt of so many tokens and goes on. Peak memory is what PyTorch allocates
beyond the weights (every tensor counts); times are medians of rounds in which the ways take turns.
The result is written after every length.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from memory import Endless, peak_bytes

import multistride
from multistride.cpu import cpu_name
from multistride.decode.batch import begin_batch
from multistride.decode.corpus import source_batch
from multistride.decode.options import DecodeOptions
from multistride.files import sha256, write_json
from multistride.groups import Slots
from multistride.model.cache import DecoderCache
from multistride.model.directory import WEIGHTS
from multistride.model.transformer import Transformer
from multistride.model.weights import load_model
from multistride.shipped import DEFAULT

WRITTEN = 64


class Steps(Endless):
    """Texts that do not end, and how long each pass took."""

    def __init__(self, model: Transformer) -> None:
        super().__init__(model)
        self.milliseconds: list[float] = []

    def step(self, slots: Slots, memory: DecoderCache) -> torch.Tensor:
        """The logits, against the clock."""
        began = time.perf_counter()
        logits = super().step(slots, memory)
        self.milliseconds.append(1000 * (time.perf_counter() - began))
        return logits


class Way(NamedTuple):
    """One way to write about a long text; `window` tokens at a time, 0: all of it."""

    kind: str
    group_size: int
    window: int


def lengthened(model: Transformer, positions: int, causal: bool) -> Transformer:
    """A model with the same weights whose context holds more; causal: its decoder alone."""
    changes = {"max_positions": positions} | ({"encoder_layers": 0} if causal else {})
    longer = Transformer(model.config.model_copy(update=changes)).eval()
    known = longer.state_dict().keys()
    longer.load_state_dict(
        {name: value for name, value in model.state_dict().items() if name in known}
    )
    return longer


def work_of(engine: Steps, length: int, way: Way) -> Callable[[], None]:
    """Reading `length` tokens and writing `WRITTEN` of them, in one batch of windows."""
    count = -(-length // way.window) if way.window else 1
    source = [5 + place % 1000 for place in range(way.window or length)]
    each = -(-WRITTEN // count) if way.window else WRITTEN
    options = DecodeOptions.made(group_size=way.group_size, max_tokens=each, batch_size=count)

    def work() -> None:
        for begin in range(0, count, 32):
            rows = min(32, count - begin)
            for _ in begin_batch(engine, *source_batch([source] * rows, engine.config), options)[1]:
                pass

    return work


def rows(
    engines: dict[str, Steps], ways: list[Way], length: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """One row for each way at this length."""
    works = [work_of(engines[way.kind], length, way) for way in ways]
    peaks = [peak_bytes(work) for work in works]
    seconds: list[list[float]] = [[] for _ in ways]
    steps: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds):
        for place in range(len(ways)):
            index = (place + turn) % len(ways)
            timed = engines[ways[index].kind].milliseconds
            timed.clear()
            began = time.perf_counter()
            works[index]()
            seconds[index].append(time.perf_counter() - began)
            steps[index].append(statistics.median(timed))
    for way, peak, whole, passes in zip(ways, peaks, seconds, steps, strict=True):
        yield {
            **way._asdict(),
            "length": length,
            "peak_mb": peak / 1e6,
            "seconds": statistics.median(whole) if whole else None,
            "ms_per_step": statistics.median(passes) if passes else None,
        }


def shown(row: dict[str, Any]) -> str:
    """A row of the table."""
    read = f"{row['kind']}, windows of {row['window']}" if row["window"] else row["kind"]
    times = (
        ("–", "–")
        if row["seconds"] is None
        else (f"{row['seconds']:.2f}", f"{row['ms_per_step']:.1f}")
    )
    return (
        f"| {read} | {row['group_size']} | {row['length']:,} | {row['peak_mb']:,.1f} | "
        f"{times[0]} | {times[1]} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--model", type=Path, default=DEFAULT)
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192,16384,32768")
    parser.add_argument("--group-sizes", default="1,4,8")
    parser.add_argument("--rounds", type=int, default=3, help="0: memory alone")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lengths, sizes = (
        list(map(int, text.split(","))) for text in (asked.lengths, asked.group_sizes)
    )
    model, _ = load_model(asked.model, torch.device("cpu"))
    positions = max(lengths) + WRITTEN + 8
    engines = {
        "source": Steps(lengthened(model, positions, causal=False)),
        "prompt": Steps(lengthened(model, positions, causal=True)),
    }
    window = model.config.max_positions - 1
    ways = [Way(kind, size, 0) for kind in engines for size in sizes]
    ways += [Way("source", size, window) for size in sorted({sizes[0], sizes[-1]})]
    work_of(engines["source"], 64, ways[0])()
    print(
        "| read | K | tokens read | peak MB | seconds | ms/step |\n| --- | --: | --: | --: | --: | "
        "--: |"
    )
    facts = {
        "name": "Memory and time against length",
        "written": WRITTEN,
        "rounds": asked.rounds,
        "sizes": model.config.model_dump(mode="json"),
        "model_sha256": sha256(asked.model / WEIGHTS),
        "threads": 1,
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "multistride": multistride.__version__,
    }
    found: list[dict[str, Any]] = []
    for length in lengths:
        for row in rows(engines, ways, length, asked.rounds):
            found.append(row)
            print(shown(row), flush=True)
        write_json(asked.result, {**facts, "results": found})


if __name__ == "__main__":
    main()
