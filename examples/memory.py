"""Measure the peak memory of every way of decoding against K=1 of the same batch and length.

Prints a Markdown table. PyTorch's allocator is watched, so every tensor counts; all sentences run
to the same length. A beam of B is compared with B times as many sentences, sampling with sampling.

    python examples/memory.py --batch-size 32 --length 40
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from multistride.decode.batch import begin_batch
from multistride.decode.beam import search
from multistride.decode.corpus import source_batch
from multistride.decode.options import DecodeOptions
from multistride.engines.eager import EagerStepModel
from multistride.groups import Slots
from multistride.model.cache import DecoderCache
from multistride.translator import Translator

TEXT = (
    "I have never seen such a beautiful garden as the one behind the old house of my grandmother."
)

WAYS: dict[str, dict[str, Any]] = {
    "fast, K=4": {"group_size": 4},
    "fast, K=8": {"group_size": 8},
    "exact, K=4": {"group_size": 4, "mode": "exact"},
    "exact, K=8": {"group_size": 8, "mode": "exact"},
    "sampling, K=4": {"group_size": 4, "temperature": 1.0},
    "speculative sampling, K=4": {"group_size": 4, "mode": "exact", "temperature": 1.0},
    "no repeated 3-gram, K=4": {"group_size": 4, "no_repeat_ngram": 3},
    "beam 4, K=1": {"beam": 4},
    "beam 4, K=4": {"group_size": 4, "beam": 4},
    "adaptive, K=4": {"group_size": 4, "mode": "adaptive"},
}


class Endless(EagerStepModel):
    """An engine whose sentences do not end before their limit."""

    @torch.inference_mode()
    def step(self, slots: Slots, memory: DecoderCache) -> torch.Tensor:
        """Logits in which EOS is out of the question."""
        logits = super().step(slots, memory)
        logits[..., self.config.end_token] = -1e4
        return logits


def peak_bytes(work: Callable[[], None]) -> int:
    """The most bytes that were allocated at any moment of `work()`, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    events = watched.profiler.kineto_results.events()
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
    )
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def decoding_peak(
    engine: Endless, source: list[int], batch: int, length: int, choices: dict[str, Any]
) -> int:
    """Peak bytes of decoding `batch` copies of a source to `length` tokens."""
    options = DecodeOptions.made(max_tokens=length, **choices)
    tensors = source_batch([source] * batch, engine.config)

    def work() -> None:
        if options.beam > 1:
            search(engine, *tensors, [length] * batch, options, wanted=1)
        else:
            for _ in begin_batch(engine, *tensors, options)[1]:
                pass

    return peak_bytes(work)


def weight_bytes(engine: Endless) -> int:
    """The bytes of the weights, and of the packed copy of the output matrix where there is one."""
    matrix = engine.model.target_embedding.weight
    packed = matrix.nbytes if type(engine._project).__name__ == "PackedLinear" else 0
    return packed + sum(parameter.nbytes for parameter in engine.model.parameters())


def measure(
    model: Translator, batch: int, length: int, ways: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, int, float, float]]:
    """For each way: peak bytes, and their ratio to K=1 of the same batch and length without and
    with the weights.
    """
    engine = Endless(model.engine.model)
    weights, [source] = weight_bytes(engine), model.vocabulary.encode([TEXT])
    decoding_peak(engine, source, 1, 4, {})  # what is allocated once
    alike: dict[tuple[int, float], int] = {}
    for name, choices in ways.items():
        rows, temperature = batch * choices.get("beam", 1), choices.get("temperature", 0.0)
        if (rows, temperature) not in alike:
            alike[rows, temperature] = decoding_peak(
                engine, source, rows, length, {"temperature": temperature}
            )
        one, found = alike[rows, temperature], decoding_peak(engine, source, batch, length, choices)
        yield name, found, found / one, (found + weights) / (one + weights)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| way | peak MB beyond the weights | to K=1 | to K=1, with the weights |\n| --- | --: | "
        "--: | --: |"
    )
    for name, found, alone, together in measure(
        Translator.load(asked.model, engine="eager"), asked.batch_size, asked.length, WAYS
    ):
        print(f"| {name} | {found / 1e6:.1f} | {alone:.2f} | {together:.2f} |", flush=True)
